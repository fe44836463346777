"""A card for each method: what it needs, what it costs, how it answers to changes, where it points, where it fails.

The form follows saliency cards (Boggust, Suresh, Strobelt, Guttag, Satyanarayan 2023, "Saliency Cards: A Framework to
Characterize and Compare Saliency Methods", FAccT, arXiv 2206.02958): methodology, sensitivity, perceptibility. Every number is
measured by `python -m xai_lib.cards` (`make cards`), which writes the cards; none is written by hand.

```python
help(explainers.get("lrp"))       # the card, behind the docstring
print(explainers.card("lrp"))
```
"""
