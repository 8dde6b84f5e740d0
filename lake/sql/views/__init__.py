"""Views over the declared tables, offered to every reader of the lake; one SELECT per file, named after the view."""
