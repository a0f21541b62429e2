"""What this machine has and allows: devices, files, paths, the cache folder, optional packages."""
