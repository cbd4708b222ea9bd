"""The general English model that comes with the package, and how a run is packed to become one."""
