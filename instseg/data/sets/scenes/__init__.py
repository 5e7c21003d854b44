"""What the images of ``instseg.data.sets.generated`` are made of: a brush, people, and the street they are in."""
