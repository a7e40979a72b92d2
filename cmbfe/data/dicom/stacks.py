"""Group slices into series: stacks of one kind of image, evenly spaced along the slice normal, without duplicates.

Slice positions decide what a series is: headers within an acquisition differ, and anonymisers write new UIDs. Parts
that form one evenly spaced stack without repeated positions are one series. Repeated positions mean several series:
echoes, filtered copies, dynamics, b-values. Ambiguous slices are refused.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np

from cmbfe.data.dicom.kinds import LOCALIZER, MAGNITUDE, UNCLEAR
from cmbfe.data.dicom.slices import ACQUISITION_KEYS, Slice
from cmbfe.data.magnitude import TAKEN
from cmbfe.errors import InputError

SAME_POSITION_MM = 0.01
UNEVEN_STEP_MM = 0.25
"""Largest difference between a step and the median step (and at most half of it). GE rounds positions to 0.1 mm, which
changes a step and the median by up to 0.1 mm each. The limit also holds for in-plane shifts of a slice."""
SAME_DIRECTION, LIKE_DIRECTION = 1e-3, 0.0125
"""Tolerances of direction cosines: for equal directions (0.06°), and within one stack (0.7°)."""
SAME_SPACING_MM, LIKE_SPACING = 1e-3, 1e-2
"""Tolerances of pixel spacings: for equal spacings, and within one stack (as a fraction)."""
SAME_ECHO_TIME_MS, OTHER_ECHO_MS = 0.1, 1.0
"""Tolerance for equal echo times, and least distance between echoes; smaller distances are variations of one echo."""
PIXEL_MM = (0.1, 20.0)
"""Pixel sizes outside this range are in another unit."""
SCOUT_PLANES_COSINE = 0.7
"""Planes belong to a localizer if the cosine of the angle between their normals is smaller (more than about 45°)."""
FEW = 3
"""Images in another plane or of another size are strays if the series has at least this many times as many others."""
ALMOST_ALL = 2 / 3
"""Least share of the positions of a series that an echo must have."""
PARTLY_THERE = 1.5
"""A step of more than this multiple of the header's spacing leaves room for slices in between."""
STEP_TO_SPACING = (0.45, 1.6)
"""Allowed ratio of a step to the header's spacing: SliceThickness may be twice the step, or exclude the gap."""
STACKED = (MAGNITUDE, "phase", "real", "imaginary", UNCLEAR)
"""Kinds whose slices form a stack; slices of localizers, projections and other kinds may lie anywhere."""
OF_ONE_SERIES = ("patient_id", "study_uid", "frame_of_reference")
_identity = attrgetter("series_uid", "patient_id", "study_uid")
_like_key = attrgetter("kind", "photometric", "rows", "columns")
Stack = list[Slice]


class NoStack(InputError):
    """Error for slices that form no valid series; `what` is the reason without patient names."""

    def __init__(self, first: Slice, what: str, details: str) -> None:
        super().__init__(f"{first.path}: {what}{details}")
        self.what = what


def stacks_of(slices: Iterable[Slice]) -> tuple[list[Stack], list[tuple[Stack, str]]]:
    """Group slices into stacks in anatomical order, not yet checked, and into strays with the reason."""
    pieces, strays = [], []
    for images in _grouped(slices, _identity):
        kept, left = _without_strays(images)
        strays += left
        pieces += [piece for group in _grouped(kept, _like_key) for piece in _alike(group)]
    return [stack for piece in _joined(pieces) for stack in _apart(piece)], strays


def check(stack: Stack, of_uid: Iterable[Stack]) -> None:
    """Raise `NoStack` unless a stack is a complete series. `of_uid`: all stacks with the same series UID."""
    if stack[0].kind not in STACKED:
        return
    _check_contrast(stack)
    _check_size(stack)
    _check_positions(stack)
    _check_not_shifted(stack)
    _check_is_one(stack)
    _check_nothing_between(stack, of_uid)


def like_single_images(stacks: Iterable[Stack]) -> Counter[tuple]:
    """Number of single-image series per kind and size."""
    return Counter(_like_key(stack[0]) for stack in stacks if len(stack) == 1)


def notes_of(stack: Stack, single_images: Mapping[tuple, int]) -> tuple[str, ...]:
    """Notes on the assumptions made about a stack. `single_images` is the result of `like_single_images`."""
    if stack[0].kind not in STACKED:
        return ()
    notes = []
    named = {"series UIDs": "series_uid", "study UIDs": "study_uid", "patient IDs": "patient_id"}
    counts = {name: len({getattr(item, field) for item in stack}) for name, field in named.items()}
    if several := [f"{count} {name}" for name, count in counts.items() if count > 1]:
        notes.append(f"Its {len(stack)} images carry {_listed(several)}: joined, as they make one even stack.")
    if differing := [name for name, differ in DIFFERENCES.items() if differ(stack)]:
        notes.append(f"Its images differ in {_listed(differing)}: joined, as they make one even stack.")
    if len(stack) == 1 and (alone := single_images[_like_key(stack[0])]) > 2:
        notes.append(f"It is one of {alone} series of a single image of one size: they may be slices of one.")
    if step_of(stack) > PARTLY_THERE * (stack[0].nominal_spacing_mm or np.inf):
        notes.append("Its slices lie further apart than their headers say: some between them may be missing.")
    if stack[0].kind == MAGNITUDE and not all(item.image_type for item in stack):
        notes.append("Its headers have no ImageType: taken for a magnitude.")
    if stack[0].kind == UNCLEAR:  # read only with --as-magnitude
        notes.append(TAKEN)
    return tuple(notes)


def _listed(words: list[str]) -> str:
    """Join words into a list with "and" before the last word.
    >>> _listed(["a"]), _listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def step_of(stack: Stack) -> float:
    """Median step between slices, mm; 0 for a single slice."""
    return float(np.median(np.diff(heights(stack)))) if len(stack) > 1 else 0.0


def heights(stack: Stack) -> np.ndarray:
    """Positions (mm) of slices along the normal of the first slice."""
    return np.array([item.position_mm for item in stack]) @ normal(stack[0])


def normal(item: Slice) -> np.ndarray:
    """Normal of a slice: row direction x column direction."""
    along_row, along_column = np.reshape(item.orientation, (2, 3))
    return np.cross(along_row, along_column)


def _grouped(items: Iterable[Any], key: Callable[[Any], Hashable]) -> list[list[Any]]:
    """Groups of items with the same key, sorted by key."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return [group for _, group in sorted(groups.items())]


def _near(slices: Stack, features: Callable[[Slice], np.ndarray]) -> list[Stack]:
    """Groups of slices with features within 1 of the first slice's. Rounding instead would part nearly equal values."""
    groups: list[tuple[np.ndarray, Stack]] = []
    start = 0
    for item in sorted(slices, key=lambda item: (*features(item).tolist(), item.sop_instance_uid)):
        own = features(item)
        while start < len(groups) and groups[start][0][0] < own[0] - 1:  # sorted: no later slice is near it
            start += 1
        members = next((members for first, members in groups[start:] if np.abs(own - first).max() <= 1), None)
        if members is None:
            groups.append((own, [item]))
        else:
            members.append(item)
    return [members for _, members in groups]


def _exactly_alike(slices: Stack) -> list[Stack]:
    def features(item: Slice) -> np.ndarray:
        echo_time, spacing = item.echo_time_ms / SAME_ECHO_TIME_MS, np.divide(item.pixel_spacing_mm, SAME_SPACING_MM)
        return np.array([echo_time, *spacing, *np.divide(item.orientation, SAME_DIRECTION)])

    return _near(slices, features)


def _direction(item: Slice) -> np.ndarray:
    return np.divide(item.orientation, LIKE_DIRECTION)


def _alike(slices: Stack) -> list[Stack]:
    """Groups of slices with similar pixel spacing and orientation, each of which may be a stack."""
    return _near(slices, lambda item: np.array([*_direction(item), *(np.log(item.pixel_spacing_mm) / LIKE_SPACING)]))


def _without_strays(images: Stack) -> tuple[Stack, list[tuple[Stack, str]]]:
    """Split a series into its images and the few strays in another plane or of another size. Without a dominant plane,
    the images become a localizer if their planes are far apart."""
    stacked = [item for item in images if item.kind in STACKED]
    kept = [item for item in images if item.kind not in STACKED]
    planes = _near(stacked, _direction)
    if not planes:
        return kept, []
    in_plane, strays = _without_few(planes)
    normals = np.array([normal(plane[0]) for plane in planes])
    if not strays and np.abs(normals @ normals.T).min() < SCOUT_PLANES_COSINE:
        return kept + [replace(item, kind=LOCALIZER) for item in stacked], []
    named = [(stray, "an image in another plane than its series") for stray in strays]
    for of_kind in _grouped(in_plane, attrgetter("kind")):
        of_one_size, strays = _without_few(_grouped(of_kind, attrgetter("rows", "columns")))
        kept += of_one_size
        named += [(stray, "an image of another size than its series") for stray in strays]
    return kept, named


def _without_few(groups: list[Stack]) -> tuple[Stack, list[Stack]]:
    """Images and strays: the largest group and the other groups, if the others are few; else all images, no strays."""
    main, *others = sorted(groups, key=len, reverse=True)
    if others and len(main) >= FEW * sum(map(len, others)):
        return main, others
    return [item for group in groups for item in group], []


def _joined(pieces: list[Stack]) -> list[Stack]:
    """Join pieces that are parts of one stack but differ in series UID, or in study or patient IDs that change with
    every file. Pieces with the same description are joined first."""
    found, stacked = _divided(pieces, lambda piece: piece[0].kind in STACKED)
    patients = defaultdict(set)  # of even stacks: an anonymiser may give the series of two people one UID
    for piece in stacked:
        if len(piece) > 2 and _is_even(_in_order(piece)):
            patients[piece[0].series_uid].add(piece[0].patient_id)

    def same_series(piece: Stack) -> tuple:
        uid = piece[0].series_uid
        return uid, piece[0].patient_id if len(patients[uid]) > 1 else ""

    whole, parts = _divided(_unions(stacked, same_series), _is_part)
    key = _whose_series(parts)
    described, parts = _divided(_unions(parts, lambda part: (*key(part), part[0].description)), _is_part)
    return found + whole + described + _unions(parts, key)


def _divided(pieces: list[Stack], holds: Callable[[Stack], bool]) -> tuple[list[Stack], list[Stack]]:
    """Pieces for which `holds` is false, and pieces for which it is true."""
    both: tuple[list[Stack], list[Stack]] = ([], [])
    for piece in pieces:
        both[holds(piece)].append(piece)
    return both


def _is_part(piece: Stack) -> bool:
    """Whether a piece may be a part of a series: it is a single slice, or has gaps between its slices."""
    ordered = _in_order(piece)
    if len(piece) == 1 or repeats(ordered):
        return len(piece) == 1
    nominal = ordered[0].nominal_spacing_mm or 0.0
    return not _is_even(ordered) or step_of(ordered) > PARTLY_THERE * nominal


def _whose_series(parts: list[Stack]) -> Callable[[Stack], tuple]:
    """Key of the parts of one series: patient, study and frame of reference, without fields that differ per file."""
    own = {
        (_like_key(items[0]), field)
        for items in _grouped((part[0] for part in parts if len(part) == 1), _like_key)
        for field in OF_ONE_SERIES
        if len(items) > 2 and len({getattr(item, field) for item in items}) == len(items)
    }

    def key(part: Stack) -> tuple:
        first = part[0]
        differ = {field for field in OF_ONE_SERIES if len({getattr(item, field) for item in part}) == len(part)}
        free = {field for field in differ if (_like_key(first), field) in own}
        return tuple("" if field in free else getattr(first, field) for field in OF_ONE_SERIES)

    return key


def _unions(parts: list[Stack], key: Callable[[Stack], tuple]) -> list[Stack]:
    """Join parts with the same key if they form evenly spaced stacks (with or without gaps); leave the other parts."""
    joined = []
    for group in _grouped(parts, lambda part: (_like_key(part[0]), key(part))):
        part_of = {id(part[0]): part for part in group}
        for like in _alike([part[0] for part in group]):
            own = [part_of[id(first)] for first in like]
            union = [item for part in own for item in part]
            joined += [union] if len(own) > 1 and _make_stacks(union, own) else own
    return joined


def _make_stacks(union: Stack, parts: list[Stack]) -> bool:
    """Whether the parts form stacks, with or without gaps, whose step agrees with the spacing in the header."""
    are_single = len(parts) == len(union)
    stacks = _apart(union)
    if not are_single and repeats(_in_order(union)):
        return False
    if any(repeats(stack) or len(stack) < (3 if are_single else 2) for stack in stacks):
        return False
    low, high = STEP_TO_SPACING
    nominal = union[0].nominal_spacing_mm
    if nominal and not all(low * nominal <= step_of(stack) <= high * nominal for stack in stacks):
        return False
    wide = PARTLY_THERE * step_of(stacks[0])
    if not nominal and any(step_of(_in_order(part)) < wide for part in parts if part[1:]):
        return False  # complete series that abut
    return all(_is_even(stack) or _has_gap(stack) for stack in stacks)


def _has_gap(stack: Stack) -> bool:
    """Whether all steps are multiples of the median step: an evenly spaced stack in which slices are missing."""
    steps = np.diff(heights(stack)) / step_of(stack)
    are_multiples = (np.abs(steps - np.rint(steps)) < 0.1).all() and (steps > 0.5).all()
    return len(stack) > 3 and bool(are_multiples) and _shifts(stack).max() <= UNEVEN_STEP_MM


def _is_whole(part: Stack) -> bool:
    """Whether a part is evenly spaced, with the spacing that its header gives."""
    nominal = part[0].nominal_spacing_mm
    ordered = _in_order(part)
    return bool(nominal) and _is_even(ordered) and abs(step_of(ordered) - nominal) < nominal / 4


def _in_order(slices: Stack) -> Stack:
    """Slices sorted by position along the normal, then by UID."""
    ranked = zip(heights(slices), (item.sop_instance_uid for item in slices), range(len(slices)), strict=True)
    return [slices[index] for _, _, index in sorted(ranked)]


def repeats(stack: Stack) -> int:
    """Number of slices at the position of the previous slice."""
    return int((np.diff(heights(stack)) < SAME_POSITION_MM).sum())


def _is_even(stack: Stack) -> bool:
    try:
        _check_positions(stack)
        _check_not_shifted(stack)
    except NoStack:
        return False
    return True


def _apart(slices: Stack) -> list[Stack]:
    """Split similar slices into sorted stacks if positions repeat or echoes differ."""
    ordered = _in_order(slices)
    if ordered[0].kind not in STACKED:
        return [ordered]
    again = repeats(ordered)
    if not again:
        return [_in_order(echo) for echo in _echoes(ordered)]
    for split, share in CRITERIA:
        parts = [_in_order(part) for part in split(ordered)]
        enough = share * (len(ordered) - again)
        if sum(map(repeats, parts)) < again and all(len(part) - repeats(part) >= enough for part in parts):
            return [stack for part in parts for stack in _apart(part)]
    return [ordered]


def _echoes(slices: Stack) -> list[Stack]:
    """Slices grouped by echo time, or by echo number if no header has a time."""
    timed = [item for item in slices if item.echo_time_ms]
    if timed:
        return _by_echo_time(slices) if len(_by_echo_time(timed)) > 1 else [slices]
    numbers = {item.echo_number for item in slices if item.echo_number}
    return _grouped(slices, attrgetter("echo_number")) if len(numbers) > 1 else [slices]


def _by_echo_time(slices: Stack) -> list[Stack]:
    """Slices grouped by echo time; groups are more than `OTHER_ECHO_MS` apart."""
    ordered = sorted(slices, key=lambda item: item.echo_time_ms)
    cuts = [n for n, (a, b) in enumerate(pairwise(ordered), 1) if b.echo_time_ms - a.echo_time_ms > OTHER_ECHO_MS]
    return [ordered[start:end] for start, end in pairwise([0, *cuts, len(ordered)])]


def _by(key: Callable[[Slice], Hashable]) -> Callable[[Stack], list[Stack]]:
    return lambda slices: _grouped(slices, key)


CRITERIA: tuple[tuple[Callable[[Stack], list[Stack]], float], ...] = (
    (_by_echo_time, ALMOST_ALL),
    (_by(attrgetter("echo_number")), ALMOST_ALL),
    (_by(attrgetter("image_type")), ALMOST_ALL),
    (_exactly_alike, ALMOST_ALL),
    *(
        (_by(lambda item, n=n: (len(item.acquisition[n]), item.acquisition[n])), 1.0)
        for n in range(len(ACQUISITION_KEYS))
    ),
)
"""Criteria that separate slices at the same position, in order of trial, with the share of positions per part."""


def _spread(stack: Stack, field: str) -> float:
    return float(np.ptp([getattr(item, field) for item in stack], axis=0).max())


DIFFERENCES: dict[str, Callable[[Stack], bool]] = {
    "echo time": lambda stack: _spread(stack, "echo_time_ms") > SAME_ECHO_TIME_MS,
    "echo number": lambda stack: _spread(stack, "echo_number") > 0,
    "ImageType": lambda stack: len({item.image_type for item in stack}) > 1,
    "pixel spacing": lambda stack: _spread(stack, "pixel_spacing_mm") > SAME_SPACING_MM,
    "orientation": lambda stack: _spread(stack, "orientation") > SAME_DIRECTION,
}
"""Attribute that may differ slightly within a stack -> function that tells whether it differs."""


def _check_contrast(stack: Stack) -> None:
    """Raise `NoStack` if RescaleSlope is 0 (no contrast) or negative (bright and dark are swapped)."""
    worst = min(stack, key=lambda item: item.slope)
    if worst.slope < 0 and worst.kind in (MAGNITUDE, UNCLEAR):
        raise NoStack(worst, "RescaleSlope is negative", ": bright would be dark; write what the scanner wrote")
    if flat := next((item for item in stack if item.slope == 0), None):
        raise NoStack(flat, "RescaleSlope is 0", ": it has no contrast; write what the scanner wrote")


def _check_size(stack: Stack) -> None:
    row_mm, column_mm = stack[0].pixel_spacing_mm
    if not PIXEL_MM[0] <= min(row_mm, column_mm) <= max(row_mm, column_mm) <= PIXEL_MM[1]:
        details = f": {row_mm:g} x {column_mm:g} mm; correct PixelSpacing, which is in mm"
        raise NoStack(stack[0], "pixels of a size that no image of a head has", details)


def _check_positions(stack: Stack) -> None:
    """Raise `NoStack` if two slices lie at one position or a step is far from the median step."""
    places = heights(stack)
    steps = np.diff(places)
    for (lower, upper), step, height in zip(pairwise(stack), steps, places, strict=False):
        if step < SAME_POSITION_MM:
            same = (lower.sop_instance_uid, lower.frame) == (upper.sop_instance_uid, upper.frame)
            copy = ", copies of one image" if same else ""
            place = f"both at {height:.2f} mm along the slice normal"
            details = f": {upper.name} and {lower.name} are {place}{copy}; keep one"
            raise NoStack(upper, "two slices at one position", details)
    spacing = step_of(stack)
    tolerance = min(UNEVEN_STEP_MM, spacing / 2)
    if (np.abs(steps - spacing) <= tolerance).all():
        return
    worst = int(np.argmax(steps)) if steps.max() > spacing + tolerance else int(np.argmin(steps))
    is_missing = steps[worst] > spacing
    lower, upper = (f"{stack[n].name} ({places[n]:.2f} mm)" for n in (worst, worst + 1))
    step = f"the step is {steps[worst]:.2f} mm, elsewhere {spacing:.2f} mm along the slice normal"
    where = f" at {places[worst] + spacing:.2f} mm" if is_missing else ""
    todo = "get the slice" if is_missing else "leave out what is no slice of this stack"
    details = f"{where}: between {lower} and {upper} {step}; {todo}"
    raise NoStack(stack[worst], "slice missing" if is_missing else "slices too close", details)


def _check_is_one(stack: Stack) -> None:
    """Raise `NoStack` if each part of a stack has its header's spacing, but the joined parts have a smaller spacing."""
    fields = ("kind", "photometric", "rows", "columns", "series_uid", "echo_number", "image_type")
    for own in (fields, (*fields, "scan")):
        parts = [part for group in _grouped(stack, attrgetter(*own)) for part in _exactly_alike(group)]
        whole = [part for part in parts if len(part) > 1 and _is_whole(part)]
        if len(whole) > 1 and step_of(stack) < step_of(_in_order(whole[0])) / PARTLY_THERE:
            details = "their headers differ, and each part has the spacing that its header says; give each part alone"
            raise NoStack(stack[0], "slices of one series or of two", f": {details}")


def _check_not_shifted(stack: Stack) -> None:
    """Raise `NoStack` if adjacent slices are shifted in their plane: a lesion would move from slice to slice."""
    shifts = _shifts(stack)
    if shifts.size and shifts.max() > UNEVEN_STEP_MM:
        worst = int(np.argmax(shifts))
        both = f"{stack[worst].name} and {stack[worst + 1].name}"
        details = f" by {shifts[worst]:.2f} mm between {both}; resample it so that slices lie upon each other"
        raise NoStack(stack[worst], "slices are shifted in their plane", details)


def _shifts(stack: Stack) -> np.ndarray:
    """In-plane shift (mm) of each slice relative to the previous slice."""
    steps, along = np.diff([item.position_mm for item in stack], axis=0), normal(stack[0])
    return np.linalg.norm(steps - np.outer(steps @ along, along), axis=1) if len(stack) > 1 else np.zeros(0)


def _check_nothing_between(stack: Stack, of_uid: Iterable[Stack]) -> None:
    """Raise `NoStack` if other slices of the series lie between those of the stack but differ too much to join it."""
    step, nominal = step_of(stack), stack[0].nominal_spacing_mm
    if len(stack) < 2 or (nominal and step <= PARTLY_THERE * nominal):
        return
    places, own = heights(stack), {id(item) for item in stack}
    between = [
        item
        for other in of_uid
        if _identity(other[0]) == _identity(stack[0])
        and (other[0].kind == stack[0].kind or {other[0].kind, stack[0].kind} == {MAGNITUDE, UNCLEAR})
        for item in other
        if id(item) not in own and _lies_between(float(normal(stack[0]) @ item.position_mm), places, step)
    ]
    if len(between) >= len(stack) / 2:
        what = "slices of the same series lie between its own"
        details = f" ({between[0].name}), but differ in kind, echo, size, spacing or direction; give each part alone"
        raise NoStack(stack[0], what, details)


def _lies_between(height: float, places: np.ndarray, step: float) -> bool:
    """Whether a height lies inside a stack, more than a quarter of a step from every slice."""
    inside = places.min() < height < places.max()
    return bool(inside and np.abs(places - height).min() > step / 4)
