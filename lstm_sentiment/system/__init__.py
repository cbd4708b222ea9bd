"""What the machine offers: files, locks, devices, processes, optional packages."""
