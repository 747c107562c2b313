"""Charts of data pages and training reports: inline SVG and HTML in the colours of the page's style."""
