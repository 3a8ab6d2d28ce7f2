"""Compiled loops of :mod:`sbmgraph.data.pathfinder`; a module of its own, to load Numba late.

``canvas`` is the picture drawn so far, ``taken`` the mask in [0, 1] of ink and its margin, which
later paddles keep clear of. A snake is the array ``(pivot y, pivot x, angle, paddle y, paddle x)``:
``angle`` is a row of the tables (:class:`sbmgraph.data.pathfinder.Tables`), and the stamp of the
snake's last paddle lies centred on ``paddle``.
"""

from __future__ import annotations

import numpy as np

from sbmgraph.kernels._numba.jit import jit

SIZE = 32
PADDING = 1
SEED_DISTANCE = 7  # also in the table `beside`
SEED_TRIES = 3
PADDLE_TRIES = 3
SNAKE_TRIES = 5
OVERLAP = 1.8
FREE = 0.3
MIN_FREE_PIXELS = 0.01 * SIZE * SIZE
DEGREES = 360
TARGET_CONTRAST = 1.5
DISTRACTOR_CONTRAST = 2.0


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
def _below(rng, bound):
    """A uniform integer from 0 to ``bound - 1`` (far quicker to compile than ``rng.integers``)."""
    return int(rng.random() * bound)


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
    pixel = found[_below(rng, count)]
    return pixel // SIZE, pixel % SIZE


@jit
def _plant(snake, angle, y, x, tables):
    """Makes the snake's first paddle start at ``(y, x)``; whether head and pivot lie inside."""
    head_y, head_x = y + tables.reach[angle, 0], x + tables.reach[angle, 1]
    snake[0], snake[1] = head_y + tables.behind[angle, 0], head_x + tables.behind[angle, 1]
    snake[2], snake[3], snake[4] = angle, y, x
    return _inside(head_y, head_x) and _inside(snake[0], snake[1])


@jit
def _choose(cumulated, value):
    """The first index whose entry is above ``value``."""
    for k in range(cumulated.shape[0]):
        if cumulated[k] > value:
            return k
    return cumulated.shape[0] - 1


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
        k = _choose(cumulated, rng.random() * total)
        head_y, head_x = y + tables.step[k, 0], x + tables.step[k, 1]
        if _overlaps(taken, tables.mask[first + k], head_y, head_x):
            continue
        _press(canvas, tables.ink[first + k], head_y, head_x, contrast)
        _press(taken, tables.mask[snake[2]], snake[3], snake[4], 1.0)
        snake[0], snake[1], snake[2], snake[3], snake[4] = y, x, first + k, head_y, head_x
        return True
    return False


@jit
def _frame(taken, border):
    """Marks a frame of so many pixels as taken, and nothing else."""
    for y in range(SIZE):
        for x in range(SIZE):
            inner = border <= min(y, x) and max(y, x) < SIZE - border
            taken[y, x] = 0.0 if inner else 1.0


@jit
def _seed_pair(rng, canvas, taken, snakes, tables):
    """Plants the two target snakes; whether that succeeded."""
    _frame(taken, 2 * SEED_DISTANCE)
    if not _seed(rng, taken, snakes[0], tables):
        return False
    planted = False
    for _ in range(SEED_TRIES):
        angle = _below(rng, DEGREES)
        beside = tables.beside[_below(rng, DEGREES)]
        planted = _plant(
            snakes[1], angle, snakes[0, 3] + beside[0], snakes[0, 4] + beside[1], tables
        )
        if planted:
            break
    _frame(taken, PADDING)
    canvas[:] = 0.0
    for i in range(2):
        angle, y, x = snakes[i, 2], snakes[i, 3], snakes[i, 4]
        _press(canvas, tables.ink[angle], y, x, TARGET_CONTRAST)
    return planted


@jit
def _seed(rng, taken, snake, tables):
    """Plants a snake's first paddle anywhere free; whether that succeeded."""
    for _ in range(SEED_TRIES):
        angle = _below(rng, DEGREES)
        y, x = _random_free(rng, taken, angle, tables)
        if y < 0:
            return False
        if _plant(snake, angle, y, x, tables):
            return True
    return False


@jit
def _grow_pair(rng, canvas, taken, snakes, length, tables):
    for _ in range(length - 1):
        for i in range(2):
            if not _extend(rng, canvas, taken, snakes[i], TARGET_CONTRAST, tables):
                return False
    # Only the second snake's last paddle joins the mask, as in the original.
    _press(taken, tables.mask[snakes[1, 2]], snakes[1, 3], snakes[1, 4], 1.0)
    return True


@jit
def _free_pixels(taken):
    count = 0
    for y in range(SIZE):
        for x in range(SIZE):
            count += taken[y, x] <= FREE
    return count


@jit
def _distractor(rng, canvas, taken, snake, length, tables):
    """Draws one distractor; whether it fits."""
    if _free_pixels(taken) < MIN_FREE_PIXELS or not _seed(rng, taken, snake, tables):
        return False
    _press(canvas, tables.ink[snake[2]], snake[3], snake[4], DISTRACTOR_CONTRAST)
    for _ in range(length - 1):
        if not _extend(rng, canvas, taken, snake, DISTRACTOR_CONTRAST, tables):
            return False
    _press(taken, tables.mask[snake[2]], snake[3], snake[4], 1.0)
    return True


@jit
def _finish(canvas, first_marker, second_marker, out):
    """Adds the markers, and scales the picture to 0 to 255."""
    low, high = np.inf, 0.0
    for y in range(SIZE):
        for x in range(SIZE):
            canvas[y, x] = max(canvas[y, x], first_marker[y, x], second_marker[y, x])
            low, high = min(low, canvas[y, x]), max(high, canvas[y, x])
    for y in range(SIZE):
        for x in range(SIZE):
            out[y * SIZE + x] = int((canvas[y, x] - low) * (255.0 / (high - low)) + 0.5)


@jit
def _picture(rng, contour_length, distractor_length, num_distractors, tables, out):
    """Draws one picture into ``out``; its label."""
    label = _below(rng, 2)
    canvas = np.empty((SIZE, SIZE))
    taken = np.empty((SIZE, SIZE))
    snakes = np.empty((2, 5), np.int64)
    tips = np.empty((2, 2), np.int64)
    while True:
        if not _seed_pair(rng, canvas, taken, snakes, tables):
            continue
        for i in range(2):
            tips[i, 0], tips[i, 1] = snakes[i, 3], snakes[i, 4]
        if _grow_pair(rng, canvas, taken, snakes, contour_length, tables):
            break
    snake = np.empty(5, np.int64)
    for _ in range(num_distractors):
        for _ in range(SNAKE_TRIES):
            new_canvas, new_taken = canvas.copy(), taken.copy()
            if _distractor(rng, new_canvas, new_taken, snake, distractor_length, tables):
                canvas, taken = new_canvas, new_taken
                break
    start = _below(rng, 2)
    end = start if label == 1 else 1 - start
    start_marker = tables.marker[tips[start, 0], tips[start, 1]]
    end_marker = tables.marker[snakes[end, 3], snakes[end, 4]]
    _finish(canvas, start_marker, end_marker, out)
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
