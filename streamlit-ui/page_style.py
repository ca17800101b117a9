"""The page's icon, and the CSS for what Streamlit has no settings for."""

from __future__ import annotations

from PIL import Image, ImageDraw

# A smaller title, less space around the page, and an image that stays visible while the controls
# scroll (on a phone the columns lie below each other).
CSS = """<style>
.stMainBlockContainer { max-width: 1400px; padding: 3.8rem 5vw 4rem; }
.stMainBlockContainer h1 { font-size: 1.8rem; padding: 0; }
.stMainBlockContainer h2 { font-size: 1.4rem; padding-bottom: .5rem; }
[data-testid=stCaptionContainer] p { color: inherit; }
[data-testid=stCaptionContainer] { color: inherit; opacity: .8; }
.stMainBlockContainer .stHorizontalBlock { row-gap: 1rem; }
.st-key-work .stColumn:first-of-type:not(.stColumn .stColumn) {
  position: sticky; top: 3.75rem; align-self: flex-start; }
@media (max-width: 640px) {
  .stMainBlockContainer { padding-left: 1rem; padding-right: 1rem; }
  .st-key-work .stColumn:first-of-type:not(.stColumn .stColumn) {
    background: Canvas; z-index: 9; max-height: 62vh; overflow-y: auto; }
}
</style>"""


def draw_icon() -> Image.Image:
    """Draw a small face: the browser would fetch an emoji or a named icon from another host."""
    image = Image.new("RGBA", (32, 32))
    draw = ImageDraw.Draw(image)
    draw.ellipse((1, 1, 30, 30), fill="#5b46c9")
    draw.ellipse((9, 10, 13, 15), fill="white")
    draw.ellipse((18, 10, 22, 15), fill="white")
    draw.arc((8, 10, 23, 24), 20, 160, fill="white", width=2)
    return image
