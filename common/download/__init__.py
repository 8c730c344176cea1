"""Getting data: sources that are tried in order, downloads that resume, archives that are unpacked safely."""
