"""The shape of a spec, its YAML with line numbers, and profiles."""
