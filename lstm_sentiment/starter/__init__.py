"""The model that comes with the package, named ``starter``, and how a run is packed to become one."""
