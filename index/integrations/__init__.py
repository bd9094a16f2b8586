"""lsr.index.integrations: adapters for other libraries; a missing library is named with its extra."""
