"""lsr.index.integrations: adapters for other libraries. The error for a missing library names the extra to install."""
