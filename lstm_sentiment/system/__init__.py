"""System layer: files, locks, devices, distributed processes, optional packages."""
