"""Facts about documents that nobody wrote beside them: read off their paths and headings, or asked of a model."""
