"""Files on Google Drive, which asks for a confirmation first; gdown gives it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from styleclip_export.errors import FetchError
from styleclip_export.fetch.download import Cancelled, Downloader
from styleclip_export.progress import ReportBytes

HOSTS = ("drive.google.com", "docs.google.com")


def is_on_drive(url: str) -> bool:
    """Return whether an address needs this module."""
    return urlsplit(url).hostname in HOSTS


def download(url: str, target: Path, downloader: Downloader, progress: ReportBytes) -> None:
    """Download a file. gdown keeps and resumes a part file of its own (`TARGETxxxxxxxx.part`).

    Raises:
        FetchError: gdown is not installed, or Drive does not give the file.
        Cancelled: the user interrupted.
    """
    try:
        import gdown
    except ImportError:
        raise FetchError(
            f"{url} needs the package gdown, which is not installed: pip install gdown, or "
            "download the file in a browser and give its folder with --from"
        ) from None
    downloader.check_reachable(url)  # gdown would go on trying for two minutes
    try:
        gdown.download(
            url=url,
            output=str(target),
            quiet=True,
            use_cookies=False,
            resume=True,
            retries=5,
            timeout=(15, 30),
            cancel=downloader.cancel,
            progress=progress,
        )
    except gdown.DownloadCancelled:
        raise Cancelled from None
    except (gdown.DownloadError, OSError, ValueError) as error:  # those of requests are OSErrors
        message = " ".join(str(error).split())
        raise FetchError(f"{url} cannot be downloaded: {message[:300]}") from None
