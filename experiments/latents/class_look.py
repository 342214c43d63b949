"""How figures show known and unknown entities."""

# The colours of latents too.
LABEL_COLOURS = {'unknown': '#D55E00', 'known': '#0072B2'}
TITLES = {'known': 'known entities', 'unknown': 'unknown entities'}
