"""lsr.index.integrations: adapters for other libraries; each module needs the extra of the same name."""
