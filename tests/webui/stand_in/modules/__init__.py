"""Stand-ins for the names that webui/ asks a Forge for, written from its description: they prove our side alone."""
