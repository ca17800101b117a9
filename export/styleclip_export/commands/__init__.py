"""The sub-commands of `styleclip-export`: options and printing only, each over a module that
does the work. A command's module is loaded when it is called, so `--help` needs no torch."""
