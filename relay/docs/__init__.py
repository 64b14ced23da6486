"""The handbook: Markdown pages that are shipped with the package, and their reader.

It owns the pages and how they are found. It knows no command, no HTTP and no HTML.
"""
