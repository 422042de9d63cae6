"""Your own images: what labelling tools, hubs and spreadsheets export, read into one form."""
