"""A finished run in people's hands: predictions over HTTP, a web page, an audit log."""
