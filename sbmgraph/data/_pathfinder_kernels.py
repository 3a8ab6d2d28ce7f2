"""Compiled loops of :mod:`sbmgraph.data.pathfinder`; a module of its own, to load Numba late.

``canvas`` is the picture drawn so far, ``taken`` the mask in [0, 1] of ink and its margin, which
later paddles keep clear of. A snake is the array ``(pivot y, pivot x, angle, paddle y, paddle x)``:
``angle`` is a row of the tables (:class:`sbmgraph.data.pathfinder.Tables`), and the stamp of the
snake's last paddle lies centred on ``paddle``.
"""

from __future__ import annotations

import numba
import numpy as np

SIZE = 32
PADDING = 1
SEED_DISTANCE = 7
SEED_TRIES = 3
PADDLE_TRIES = 3
SNAKE_TRIES = 5
OVERLAP = 1.8
FREE = 0.3
MIN_FREE_SHARE = 0.01
TARGET_CONTRAST = 1.5
DISTRACTOR_CONTRAST = 2.0

jit = numba.njit(nogil=True, cache=True)


@jit
def _inside(y, x):
    return 0 <= y < SIZE and 0 <= x < SIZE


@jit
def _press(target, stamp, y, x, scale):
    """``target = max(target, scale * stamp)``, with the stamp centred on ``(y, x)``."""
    radius = stamp.shape[0] // 2
    for dy in range(max(-radius, -y), min(radius, SIZE - 1 - y) + 1):
        for dx in range(max(-radius, -x), min(radius, SIZE - 1 - x) + 1):
            value = scale * stamp[radius + dy, radius + dx]
            target[y + dy, x + dx] = max(target[y + dy, x + dx], value)


@jit
def _overlaps(taken, stamp, y, x):
    radius = stamp.shape[0] // 2
    for dy in range(max(-radius, -y), min(radius, SIZE - 1 - y) + 1):
        for dx in range(max(-radius, -x), min(radius, SIZE - 1 - x) + 1):
            if taken[y + dy, x + dx] + stamp[radius + dy, radius + dx] >= OVERLAP:
                return True
    return False


@jit
def _grown(taken, y, x):
    """``taken`` dilated by a disc of radius 1, at one pixel."""
    value = taken[y, x]
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        if _inside(y + dy, x + dx):
            value = max(value, taken[y + dy, x + dx])
    return value


@jit
def _meets(taken, kernel, y, x):
    """Whether the footprint of a paddle that starts at ``(y, x)`` meets a pixel that is taken."""
    for k in range(kernel.shape[0]):
        yy, xx = y + kernel[k, 0], x + kernel[k, 1]
        if _inside(yy, xx) and taken[yy, xx] > FREE:
            return True
    return False


@jit
def _random_free(rng, taken, angle, tables):
    """A uniform pixel among those whose footprint meets nothing, or ``(-1, -1)``."""
    if not tables.sound[angle]:
        return -1, -1
    kernel = tables.kernels[tables.starts[angle] : tables.starts[angle + 1]]
    found = np.empty(SIZE * SIZE, np.int64)
    count = 0
    for y in range(SIZE):
        for x in range(SIZE):
            if not _meets(taken, kernel, y, x):
                found[count] = y * SIZE + x
                count += 1
    if count == 0:
        return -1, -1
    pixel = found[rng.integers(0, count)]
    return pixel // SIZE, pixel % SIZE


@jit
def _plant(snake, angle, y, x, tables):
    """Makes the snake's first paddle start at ``(y, x)``; whether head and pivot lie inside."""
    head_y, head_x = y + tables.reach[angle, 0], x + tables.reach[angle, 1]
    snake[0], snake[1] = head_y + tables.behind[angle, 0], head_x + tables.behind[angle, 1]
    snake[2], snake[3], snake[4] = angle, y, x
    return _inside(head_y, head_x) and _inside(snake[0], snake[1])


@jit
def _extend(rng, canvas, taken, snake, contrast, tables):
    """Adds a paddle to the snake; whether it fits anywhere."""
    number = tables.step.shape[0]
    first = tables.angle.shape[0] - number
    y, x = snake[0] + tables.advance[snake[2], 0], snake[1] + tables.advance[snake[2], 1]
    cumulated = np.empty(number)
    total = 0.0
    for k in range(number):
        head_y, head_x = y + tables.step[k, 0], x + tables.step[k, 1]
        if _inside(head_y, head_x):
            turn = abs(tables.angle[first + k] - tables.angle[snake[2]])
            turn = min(min(turn, 2 * np.pi - turn), np.pi / 2)
            total += (1.0 - _grown(taken, head_y, head_x)) * np.cos(turn) ** 2
        cumulated[k] = total
    if total < 1e-4:
        return False
    for _ in range(PADDLE_TRIES):
        k = np.searchsorted(cumulated, rng.random() * total, side="right")
        head_y, head_x = y + tables.step[k, 0], x + tables.step[k, 1]
        if _overlaps(taken, tables.mask[first + k], head_y, head_x):
            continue
        _press(canvas, tables.ink[first + k], head_y, head_x, contrast)
        _press(taken, tables.mask[snake[2]], snake[3], snake[4], 1.0)
        snake[0], snake[1], snake[2], snake[3], snake[4] = y, x, first + k, head_y, head_x
        return True
    return False


@jit
def _blank(taken, border):
    taken[:] = 0.0
    taken[:border, :] = 1.0
    taken[-border:, :] = 1.0
    taken[:, :border] = 1.0
    taken[:, -border:] = 1.0


@jit
def _seed_pair(rng, canvas, taken, snakes, tables):
    """Plants the two target snakes; whether that succeeded."""
    _blank(taken, 2 * SEED_DISTANCE)
    for trial in range(SEED_TRIES + 1):
        angle = rng.integers(0, tables.reach.shape[0])
        y, x = _random_free(rng, taken, angle, tables)
        if trial == SEED_TRIES or y < 0:
            return False
        if _plant(snakes[0], angle, y, x, tables):
            break
    for trial in range(SEED_TRIES + 1):
        angle = rng.integers(0, tables.reach.shape[0])
        around = rng.integers(0, 360) * np.pi / 180
        other_y = int(np.round(y + SEED_DISTANCE * np.sin(around)))
        other_x = int(np.round(x + SEED_DISTANCE * np.cos(around)))
        if trial == SEED_TRIES:
            return False
        if _plant(snakes[1], angle, other_y, other_x, tables):
            break
    _blank(taken, PADDING)
    canvas[:] = 0.0
    for snake in snakes:
        _press(canvas, tables.ink[snake[2]], snake[3], snake[4], TARGET_CONTRAST)
    return True


@jit
def _grow_pair(rng, canvas, taken, snakes, length, tables):
    for _ in range(length - 1):
        for snake in snakes:
            if not _extend(rng, canvas, taken, snake, TARGET_CONTRAST, tables):
                return False
    # Only the second snake's last paddle joins the mask, as in the original.
    _press(taken, tables.mask[snakes[1, 2]], snakes[1, 3], snakes[1, 4], 1.0)
    return True


@jit
def _distractor(rng, canvas, taken, snake, length, tables):
    """Draws one distractor; whether it fits."""
    if (taken <= FREE).mean() < MIN_FREE_SHARE:
        return False
    for trial in range(SEED_TRIES + 1):
        angle = rng.integers(0, tables.reach.shape[0])
        y, x = _random_free(rng, taken, angle, tables)
        if trial == SEED_TRIES or y < 0:
            return False
        if _plant(snake, angle, y, x, tables):
            break
    _press(canvas, tables.ink[snake[2]], y, x, DISTRACTOR_CONTRAST)
    for _ in range(length - 1):
        if not _extend(rng, canvas, taken, snake, DISTRACTOR_CONTRAST, tables):
            return False
    _press(taken, tables.mask[snake[2]], snake[3], snake[4], 1.0)
    return True


@jit
def _picture(rng, contour_length, distractor_length, num_distractors, tables, out):
    """Draws one picture into ``out``; its label."""
    label = rng.integers(0, 2)
    canvas = np.empty((SIZE, SIZE))
    taken = np.empty((SIZE, SIZE))
    snakes = np.empty((2, 5), np.int64)
    while True:
        if not _seed_pair(rng, canvas, taken, snakes, tables):
            continue
        tips = snakes[:, 3:].copy()
        if _grow_pair(rng, canvas, taken, snakes, contour_length, tables):
            break
    snake = np.empty(5, np.int64)
    for _ in range(num_distractors):
        for _ in range(SNAKE_TRIES):
            new_canvas, new_taken = canvas.copy(), taken.copy()
            if _distractor(rng, new_canvas, new_taken, snake, distractor_length, tables):
                canvas, taken = new_canvas, new_taken
                break
    start = rng.integers(0, 2)
    end = start if label == 1 else 1 - start
    canvas = np.maximum(canvas, tables.marker[tips[start, 0], tips[start, 1]])
    canvas = np.maximum(canvas, tables.marker[snakes[end, 3], snakes[end, 4]])
    low, high = canvas.min(), canvas.max()
    out[:] = ((canvas - low) * (255.0 / (high - low)) + 0.5).astype(np.uint8).ravel()
    return label


@jit
def pictures(rng, count, contour_length, distractor_length, num_distractors, tables):
    """``count`` pictures, uint8 ``[count, SIZE * SIZE]``, and their labels."""
    images = np.empty((count, SIZE * SIZE), np.uint8)
    labels = np.empty(count, np.int64)
    for i in range(count):
        labels[i] = _picture(
            rng, contour_length, distractor_length, num_distractors, tables, images[i]
        )
    return images, labels
