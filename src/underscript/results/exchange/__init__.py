"""Label issues in the forms of the tools in which people look at samples."""
