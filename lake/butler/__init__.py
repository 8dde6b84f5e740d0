"""The bridge to a Butler: its YAML export format 1.0.2, written and read. Nothing here needs a Butler to be installed.

The door is export_butler() and import_butler(); definitions.yaml says how our datasets look to a Butler.
"""
