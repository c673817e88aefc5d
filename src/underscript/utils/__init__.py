"""What every room uses: labels and their names, files, devices, processes, progress."""
