"""What underscript costs, side by side with the literal procedure and the machine's own floor."""
