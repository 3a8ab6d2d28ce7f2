"""Compiled loops of ListOps; a module of their own, to load Numba late."""

from __future__ import annotations

import numpy as np

from sbmgraph.kernels._numba.jit import jit

MIN, MAX, MED, SM, CLOSE, LEFT, RIGHT = range(11, 18)
OPERATOR, OPENED, EXPRESSION = range(18, 21)
DIGIT_PROBABILITY = 0.75


@jit
def _apply(operator, values, count):
    values = np.sort(values[:count])
    if operator == MIN:
        return values[0]
    if operator == MAX:
        return values[-1]
    if operator == MED:
        return (values[(count - 1) // 2] + values[count // 2]) // 2
    return values.sum() % 10


@jit
def _tree(rng, out, longest, max_depth, max_children, values, counts, arguments, operators):
    """Writes a tree in prefix order; returns length and value, or -1 once it is too long."""
    length, open_nodes, owed = 0, 0, 1
    while True:
        # Every node still owed takes a token, and every open one a bracket.
        if length + owed + open_nodes > longest:
            return -1, -1
        if open_nodes < max_depth - 1 and rng.random() >= DIGIT_PROBABILITY:
            operators[open_nodes] = MIN + rng.integers(0, 4)
            arguments[open_nodes] = rng.integers(2, max_children + 1)
            counts[open_nodes] = 0
            out[length] = operators[open_nodes]
            owed += arguments[open_nodes] - 1
            length += 1
            open_nodes += 1
            continue
        value = rng.integers(0, 10)
        out[length] = value + 1
        length += 1
        owed -= 1
        while open_nodes > 0:
            top = open_nodes - 1
            values[top, counts[top]] = value
            counts[top] += 1
            if counts[top] < arguments[top]:
                break
            value = _apply(operators[top], values[top], counts[top])
            out[length] = CLOSE
            length += 1
            open_nodes -= 1
        if open_nodes == 0:
            return length, value


@jit
def random_trees(rng, num_trees, max_tries, min_length, max_length, max_depth, max_children):
    """Random trees with ``min_length < length < max_length``: tokens, ptr, values, tries."""
    tokens = np.empty(num_trees * max_length, np.uint8)
    ptr = np.zeros(num_trees + 1, np.int64)
    labels = np.empty(num_trees, np.int64)
    values = np.empty((max_depth, max_children), np.int64)
    state = np.empty((3, max_depth), np.int64)
    found = 0
    tries = 0
    while found < num_trees and tries < max_tries:
        tries += 1
        length, value = _tree(
            rng, tokens[ptr[found] :], max_length - 1, max_depth, max_children, values,
            state[0], state[1], state[2],
        )  # fmt: skip
        if length > min_length:
            labels[found] = value
            ptr[found + 1] = ptr[found] + length
            found += 1
    return tokens[: ptr[found]], ptr[: found + 1], labels[:found], tries


@jit
def value_of(tokens):
    """Value of a tree, or minus the number of the offending token (from 1)."""
    size = len(tokens)
    operators = np.empty(size + 1, np.int64)
    starts = np.empty(size + 1, np.int64)
    stack = np.empty(size + 1, np.int64)
    open_nodes, held = 0, 0
    for i in range(size):
        token = tokens[i]
        if held == 1 and open_nodes == 0:
            return -(i + 1)
        if MIN <= token <= SM:
            operators[open_nodes], starts[open_nodes] = token, held
            open_nodes += 1
        elif token == CLOSE:
            if open_nodes == 0 or held == starts[open_nodes - 1]:
                return -(i + 1)
            open_nodes -= 1
            start = starts[open_nodes]
            stack[start] = _apply(operators[open_nodes], stack[start:held], held - start)
            held = start + 1
        elif 1 <= token <= 10:
            stack[held] = token - 1
            held += 1
        else:
            return -(i + 1)
    if open_nodes or held != 1:
        return -(size + 1)
    return stack[0]


@jit
def first_misplaced(codes):
    """Number of the first token or parenthesis that is out of place in LRA's text (that of the end
    included), or -1.

    A stack of what is not yet part of a pair; a right parenthesis makes a pair of its top: an
    operator (or an :data:`OPENED` one, which has arguments) with an argument is an opened operator,
    and one of these with ``]`` an expression.
    """
    size = len(codes)
    stack = np.empty(size + 1, np.uint8)
    held = 0
    for i in range(size):
        code = codes[i]
        if code != RIGHT:
            if held > 0 and stack[held - 1] == CLOSE:
                return i
            kind = code
            if code < MIN:
                kind = EXPRESSION
            elif code < CLOSE:
                kind = OPERATOR
            stack[held] = kind
            held += 1
            continue
        if held < 3 or stack[held - 3] != LEFT:
            return i
        first, second = stack[held - 2], stack[held - 1]
        if second == EXPRESSION and first in (OPERATOR, OPENED):
            stack[held - 3] = OPENED
        elif second == CLOSE and first == OPENED:
            stack[held - 3] = EXPRESSION
        else:
            return i
        held -= 2
    return -1 if held == 1 and stack[0] == EXPRESSION else size
