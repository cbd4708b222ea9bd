"""Every setting: dataclasses, YAML files, the command line."""
