"""A run as a page to read in the browser: one HTML file that needs nothing else.

run.py        the files of a run directory
measure.py    the chosen weights scored on a split again, as `mldec evaluate` does
analysis.py   what scores and targets say: curves, errors, thresholds
charts.py     lines as SVG, in the colours of the page
gallery.py    the images that went best and worst, with maps
page.py       the page of one run; comparison.py that of several
browse.py     the images of a dataset with their labels: another page, of the same parts
html.py       from values to text, with everything escaped
"""
