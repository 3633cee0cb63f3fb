"""The model: loaded, proved to use our attention, its modules fused where they are proved equal."""
