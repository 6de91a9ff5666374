"""K-means on unit vectors, seeded, in blocks of rows: for hundreds of thousands of embeddings on one device."""

import torch

_BLOCK = 65_536  # rows compared with all centres at once
_SAMPLE = 64  # rows per centre, on which the centres are fitted


def kmeans(features: torch.Tensor, count: int, seed: int, rounds: int = 12) -> torch.Tensor:
    """The cluster (0 to count - 1) of each row of ``features`` [rows, width], rows of length 1 -> int64 [rows].

    Lloyd's algorithm from k-means++ centres, by cosine. Centres are fitted on a random sample (64 rows per cluster),
    then every row joins its nearest centre. Same rows and seed, same clusters.
    Raises ValueError for fewer rows than clusters.
    """
    if len(features) < count:
        raise ValueError(f"{count} clusters need as many rows, there are {len(features)}")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(features), generator=generator)[: _SAMPLE * count].sort().values.to(features.device)
    sample = features[chosen].float()
    centres = _first_centres(sample, count, generator)
    for _ in range(rounds):
        nearest = nearest_centres(sample, centres)
        sums = torch.zeros_like(centres).index_add_(0, nearest, sample)
        used = torch.bincount(nearest, minlength=count) > 0
        moved = torch.where(used[:, None], torch.nn.functional.normalize(sums, dim=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return nearest_centres(features, centres)


def nearest_centres(features: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """The nearest (by cosine) of ``centres`` [clusters, width] for each row of ``features`` [rows, width]."""
    return torch.cat([(block.float() @ centres.T).argmax(dim=1) for block in features.split(_BLOCK)])


def _first_centres(sample: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """k-means++: each further centre is sampled with the squared distance to the centres so far as its weight."""
    chosen = [int(torch.randint(len(sample), (1,), generator=generator))]
    distance = torch.full((len(sample),), torch.inf, device=sample.device)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (2 - 2 * sample @ sample[chosen[-1]]).clamp_min(0))
        # By cumulative sum: torch.multinomial takes at most 2^24 rows and rounds differently on other devices.
        total = distance.double().cumsum(0)
        point = torch.rand(1, generator=generator, dtype=torch.float64).to(total) * total[-1]
        chosen.append(min(int(torch.searchsorted(total, point)), len(sample) - 1))
    return sample[chosen].clone()


def shares(sizes: list[int], cap: int) -> list[int]:
    """How many rows each cluster keeps of ``cap``: its share of all rows, by largest remainder.

    The shares add up to the cap, or to all rows where there are fewer.
    """
    total = sum(sizes)
    if total <= cap:
        return list(sizes)
    kept = [size * cap // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda number: (-(sizes[number] * cap % total), number))
    for number in by_remainder[: cap - sum(kept)]:
        kept[number] += 1
    return kept
