"""HTML, Markdown and numbers that all reports share."""
