"""The sub-commands of `styleclip-export`: options and output only. Other modules do the work."""
