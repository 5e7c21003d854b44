"""What the pictures of ``instseg.data.generated`` are made of: a brush, people, and the street they are in."""
