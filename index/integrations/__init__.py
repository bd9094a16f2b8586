"""lsr.index.integrations: an index inside other libraries; each module needs the extra of its name."""
