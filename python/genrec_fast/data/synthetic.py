"""A small shop whose truth is known: what a customer buys next is drawn from a distribution that can be asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.base.jagged import Jagged
from genrec_fast.data.interactions import Dataset, Interactions

# category: products, each usually followed by the next ones in the list (round and round).
_PRODUCTS = {
    "Coffee": ("grinder", "pour-over kettle", "paper filters", "coffee beans", "espresso cups", "milk frother"),
    "Tea": ("teapot", "green tea", "tea strainer", "honey jar", "black tea", "tea towel"),
    "Baking": ("mixing bowl", "stand mixer", "baking tin", "rolling pin", "piping set", "cake stand"),
    "Desk": ("desk lamp", "notebook", "fountain pen", "ink bottle", "pen tray", "desk mat"),
    "Garden": ("watering can", "flower pot", "potting soil", "pruning shears", "plant stand", "seed box"),
    "Camping": ("tent", "sleeping bag", "camp stove", "gas cartridge", "lantern", "folding chair"),
    "Cycling": ("bike helmet", "front light", "bike lock", "saddle bag", "chain oil", "floor pump"),
    "Bath": ("bath towel", "soap dish", "bath salts", "shower brush", "bath mat", "laundry basket"),
    "Sleep": ("pillow", "duvet", "bed linen", "wool blanket", "night light", "alarm clock"),
    "Drawing": ("sketchbook", "pencil set", "eraser", "charcoal", "easel", "watercolours"),
    "Running": ("running shoes", "running socks", "water bottle", "arm band", "rain jacket", "foam roller"),
    "Music": ("ukulele", "string set", "clip tuner", "music stand", "metronome", "carrying case"),
}
_BRANDS = ("Alba", "Birk", "Cirro", "Dorn", "Elda", "Fjord", "Gessa", "Holm", "Isola", "Juna", "Karst", "Lund")
_STYLES = (
    "amber", "birch", "cobalt", "copper", "graphite", "ivory", "linen", "moss", "oak", "ochre", "rose", "slate",
)  # fmt: skip

_FOLLOW = (1.0, 0.5, 0.25)  # weight of the product bought next: the next in the list, the one after, a far one
_BRAND, _STYLE = 4.0, 4.0  # how much likelier an item of the same brand, of the same style becomes
_POPULARITY = 0.5  # exponent of the popularity of the r-th item, r^-0.5
_LAST, _BEFORE = 0.65, 0.2  # share of purchases that follow the last item, the one before it; the rest: popularity


class Shop:
    """A generator of shoppers that are Markov of order two in what can be seen.

    With last item i, the one before it j, and popularity p over the items::

        P(x | ..., j, i) = 0.65 T[i, x] + 0.2 T[j, x] + 0.15 p[x]      (two items or more)
        P(x | i)         = 0.85 T[i, x] + 0.15 p[x]
        P(x)             = p[x]
        T[i, x] ~ p[x] * follow(product of i, product of x) * 4^[same brand] * 4^[same style]

    There is no hidden taste of a user: these are the exact probabilities given the history, and nobody can do better
    than to rank by them.

    Args:
        num_items: 72 to 10,368 (72 products, each in up to 144 combinations of brand and style).
        feature_dim: width of the feature vectors, which carry product, category, brand and style.
        seed: of the catalog; the customers have their own.

    Raises:
        InvalidValueError: num_items or feature_dim out of range.

    Notes:
        With the defaults, recall@10 is about 0.55 for the truth and 0.08 for the most popular items. Memory is
        8 bytes * num_items^2, twice.

    Source: ours.

    Example:
        >>> shop = Shop(seed=0)
        >>> data = shop.dataset(100, seed=1)
        >>> shop.next_item_probabilities(data.interactions.items).shape
        torch.Size([100, 600])
    """

    def __init__(self, num_items: int = 600, *, feature_dim: int = 64, seed: int = 0) -> None:
        categories = list(_PRODUCTS)
        products = [product for names in _PRODUCTS.values() for product in names]
        most = len(products) * len(_BRANDS) * len(_STYLES)
        if not len(products) <= num_items <= most:
            raise InvalidValueError(f"Shop: num_items must be in [{len(products)}, {most}], got {num_items}")
        if feature_dim < 1:
            raise InvalidValueError(f"Shop: feature_dim must be at least 1, got {feature_dim}")
        generator = torch.Generator().manual_seed(seed)
        per_category = len(products) // len(categories)

        # Items: product after product gets one more combination of brand and style; then shuffled, so that an id says
        # nothing about the item.
        looks = torch.stack([torch.randperm(len(_BRANDS) * len(_STYLES), generator=generator) for _ in products])
        number = torch.randperm(num_items, generator=generator)
        product = number % len(products)
        look = looks[product, number // len(products)]
        brand, style, category = look // len(_STYLES), look % len(_STYLES), product // per_category
        self.num_items = num_items
        self.categories = [categories[c] for c in category.tolist()]
        self.titles = [
            f"{_BRANDS[b]} {_STYLES[s]} {products[p]}"
            for b, s, p in zip(brand.tolist(), style.tolist(), product.tolist(), strict=True)
        ]

        rank = torch.randperm(num_items, generator=generator).double() + 1.0
        self.popularity = rank**-_POPULARITY / (rank**-_POPULARITY).sum()  # float64 [N]
        """float64 ``[N]``: what a customer without a history buys."""

        follow = torch.zeros(len(products), len(products), dtype=torch.float64)
        here = torch.arange(len(products))
        base, place = here // per_category * per_category, here % per_category
        for ahead in (1, 2):
            follow[here, base + (place + ahead) % per_category] += _FOLLOW[ahead - 1]
        far = (here + per_category * torch.randint(1, len(categories), (len(products),), generator=generator)) % len(
            here
        )
        follow[here, far] += _FOLLOW[2]
        weight = self.popularity * follow[product][:, product]
        weight *= torch.where(brand[:, None] == brand, _BRAND, 1.0) * torch.where(style[:, None] == style, _STYLE, 1.0)
        self._transitions = weight / weight.sum(1, keepdim=True)  # float64 [N, N]
        # One ascending line for all rows: row i runs from i to i + 1, so that one search serves many customers.
        rows = self._transitions.cumsum(1)
        self._cumulative = (rows / rows[:, -1:] + torch.arange(num_items)[:, None]).flatten()
        self._cumulative_popularity = self.popularity.cumsum(0)

        def vectors(count: int) -> Tensor:
            return torch.randn(count, feature_dim, generator=generator)

        features = vectors(len(products))[product] + 0.5 * vectors(len(categories))[category]
        features += 0.7 * vectors(len(_BRANDS))[brand] + 0.7 * vectors(len(_STYLES))[style]
        features += 0.1 * vectors(num_items)
        self.features = features / features.norm(dim=1, keepdim=True)
        """float32 ``[N, F]``, of length one."""

    def dataset(self, num_users: int, seed: int = 0, *, min_events: int = 5, max_events: int = 20) -> Dataset:
        """Customers with ``min_events`` to ``max_events`` purchases each (uniform), and the day of each, in seconds.

        Raises:
            InvalidValueError: no users, or a range of events that is empty.
        """
        if num_users < 1:
            raise InvalidValueError(f"Shop.dataset: num_users must be at least 1, got {num_users}")
        if not 1 <= min_events <= max_events:
            raise InvalidValueError(
                f"Shop.dataset: max_events must be at least min_events >= 1, got {min_events}..{max_events}"
            )
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(min_events, max_events + 1, (num_users,), generator=generator)
        histories = torch.empty(num_users, max_events, dtype=torch.int64)
        for step in range(max_events):  # everybody buys until the longest is done; the rest is cut off
            histories[:, step] = self._draw(histories[:, max(0, step - 2) : step], generator)
        days = torch.randint(0, 365, (num_users, 1), generator=generator)
        days = days + torch.randint(1, 10, (num_users, max_events), generator=generator).cumsum(1)
        kept = torch.arange(max_events) < lengths[:, None]
        interactions = Interactions(
            Jagged.from_lengths(histories[kept], lengths),
            days[kept].double() * 86400,
            [f"customer {i}" for i in range(num_users)],
            [f"item {i}" for i in range(self.num_items)],
        )
        kinds = [[category] for category in self.categories]
        texts = list(self.titles), list(self.categories)
        return Dataset("shop", interactions, *texts, self.features.clone(), categories=kinds)

    def _draw(self, recent: Tensor, generator: torch.Generator) -> Tensor:
        """One purchase after int64 ``recent [B, 0..2]``: first which part of the mixture, then from that part."""
        count = recent.shape[0]
        part, place = torch.rand(2, count, dtype=torch.float64, generator=generator)
        bought = torch.searchsorted(self._cumulative_popularity, place * self._cumulative_popularity[-1], right=True)
        if recent.shape[1]:
            source = torch.where(part < _LAST, recent[:, -1], recent[:, 0])  # both the same after one purchase
            following = torch.searchsorted(self._cumulative, source + place, right=True) - source * self.num_items
            bought = torch.where(part < _LAST + _BEFORE, following, bought)
        return bought.clamp(max=self.num_items - 1)

    def next_item_probabilities(self, histories: Jagged) -> Tensor:
        """The exact distribution of the next purchase.

        Args:
            histories: int64 values, item ids, oldest first; rows may be empty.

        Returns:
            float32 ``[B, N]``; rows sum to one.

        Raises:
            InvalidTypeError: not int64.
            InvalidValueError: an item that the shop does not have.
        """
        values, lengths = histories.values, histories.lengths
        if values.dtype != torch.int64:
            raise InvalidTypeError(f"Shop.next_item_probabilities: histories must be int64, got {values.dtype}")
        if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < self.num_items:
            wrong = int(values.min()) if int(values.min()) < 0 else int(values.max())
            raise InvalidValueError(
                f"Shop.next_item_probabilities: histories must hold items in [0, {self.num_items}), got {wrong}"
            )
        out = self.popularity.repeat(len(histories), 1)
        some = (lengths > 0).nonzero().squeeze(1)
        if some.numel():
            last = histories.offsets[1:][some] - 1
            before = torch.where(lengths[some] > 1, last - 1, last)
            out[some] *= 1.0 - _LAST - _BEFORE
            out[some] += _LAST * self._transitions[values[last]] + _BEFORE * self._transitions[values[before]]
        return out.float()

    def best(self, histories: Jagged, k: int) -> Tensor:
        """int64 ``[B, k]``: the oracle, the k likeliest next items (ties: the lower id)."""
        if not 1 <= k <= self.num_items:
            raise InvalidValueError(f"Shop.best: k must be in [1, {self.num_items}], got {k}")
        return torch.sort(self.next_item_probabilities(histories), dim=1, descending=True, stable=True).indices[:, :k]

    def expected_recall(self, histories: Jagged, k: int) -> float:
        """The recall@k that the oracle reaches on average over the purchases that may follow: nobody can do better."""
        probabilities = self.next_item_probabilities(histories).double()
        return float(probabilities.gather(1, self.best(histories, k)).sum(1).mean())
