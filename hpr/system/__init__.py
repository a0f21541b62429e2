"""What this machine has and allows: devices, files, paths and the cache folder, optional packages."""
