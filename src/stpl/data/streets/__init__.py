"""The embedded benchmark `streets`: procedural street drives with exact labels and flow."""
