"""The linear assignment problem on the device: jitted, batched by `jax.vmap`, with scipy's choice among equal costs.

`scipy.optimize.linear_sum_assignment` runs on the host only. `assign` takes the same decisions inside a compiled
program, so that `grouping.group` and `grouping.group_batch` return the same people. Costs are integers in levels that
are compared one after another: sums of float32 costs would depend on their order and could not break ties as scipy's
float64 does.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class _Matching(NamedTuple):
    """The assignment of the rows so far, with the prices that prove it optimal: cost >= u + v, equal where assigned."""

    column_of: jax.Array  # (M,), -1: none
    row_of: jax.Array  # (P,), -1: none
    u: jax.Array  # (M, L), prices of the rows
    v: jax.Array  # (P, L), prices of the columns


class _Search(NamedTuple):
    """The search for the shortest augmenting path from one row (Dijkstra's algorithm over the columns)."""

    far: jax.Array  # (P, L), length of the shortest path to each column that was reached
    seen: jax.Array  # (P,), the columns that were reached
    done: jax.Array  # (P,), the columns whose length is final
    parent: jax.Array  # (P,), the row before a column on its path
    order: jax.Array  # (P,), place of a column in scipy's list of remaining columns, -1 once it is done
    left: jax.Array  # number of remaining columns
    row: jax.Array  # the row whose costs are examined next
    length: jax.Array  # (L,), length of the path to that row
    sink: jax.Array  # the free column at the end of the path, -1 until it is reached


def assign(cost: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the column of each row in an assignment of least cost.

    It follows shortest augmenting paths (Crouse 2016), one row after another. Among equally short paths it takes the
    one that scipy's `linear_sum_assignment` takes: free columns first, then scipy's order of the remaining columns.

    Args:
        cost: (M, P, L) integers, compared level by level; sums along a path must not overflow their dtype.
        rows: (M,) bool, the rows that count; they come first.
        columns: (P,) bool, the columns that count; they come first and are at least as many as the rows.

    Returns:
        (M,) integers, -1 for rows that do not count.

    >>> cost = jnp.array([[4, 1, 3], [2, 0, 5], [3, 2, 2]])[..., None]
    >>> assign(cost, jnp.array([True, True, True]), jnp.array([True, True, True])).tolist()
    [1, 0, 2]
    >>> assign(cost, jnp.array([True, True, False]), jnp.array([True, True, False])).tolist()
    [1, 0, -1]
    """
    first, matching = _uncontested(cost, rows, columns)
    count = rows.sum()

    def one_more(state):
        start, matching = state
        # Under vmap the loop runs until every problem of the batch is solved; one without rows left must not search.
        idle = start >= count
        search = _shortest_path(cost, columns, matching, start, idle)
        slack = jnp.where(search.done[:, None], search.length - search.far, 0)
        of_done = jnp.where(search.done & (matching.row_of >= 0), matching.row_of, len(rows))
        u = matching.u.at[start].add(search.length).at[of_done].add(slack, mode="drop")
        column_of, row_of = _flip(matching, search, start, idle)
        return start + 1, _Matching(column_of, row_of, u, matching.v - slack)

    return jax.lax.while_loop(lambda state: state[0] < count, one_more, (first, matching))[1].column_of


def _uncontested(cost: jax.Array, rows: jax.Array, columns: jax.Array) -> tuple[jax.Array, _Matching]:
    """Returns the first row whose cheapest column is already taken, and the matching of the rows before it.

    Most often each row has its cheapest column to itself, and there is nothing to search.
    """
    m, n, levels = cost.shape
    place = jnp.arange(m)
    nearest = jnp.argmax(_least(cost, jnp.broadcast_to(columns, (m, n))), 1)
    contested = rows & ((nearest[:, None] == nearest) & (place[:, None] > place)).any(1)
    first = jnp.where(contested.any(), jnp.argmax(contested), m)
    early = rows & (place < first)
    row_of = jnp.full(n, -1).at[jnp.where(early, nearest, n)].set(place, mode="drop")
    u = jnp.where(early[:, None], jnp.take_along_axis(cost, nearest[:, None, None], 1)[:, 0], 0)
    return first, _Matching(jnp.where(early, nearest, -1), row_of, u, jnp.zeros((n, levels), cost.dtype))


def _shortest_path(
    cost: jax.Array, columns: jax.Array, matching: _Matching, start: jax.Array, idle: jax.Array
) -> _Search:
    """Returns the finished search from row `start`; if `idle`, no step is taken."""
    _, n, levels = cost.shape

    def spread(search: _Search) -> _Search:
        through = search.length + cost[search.row] - matching.u[search.row] - matching.v
        better = columns & ~search.done & (~search.seen | _less(through, search.far))
        far = jnp.where(better[:, None], through, search.far)
        parent, seen = jnp.where(better, search.row, search.parent), search.seen | better
        least = _least(far, seen & ~search.done)
        free = least & (matching.row_of < 0)
        ends = free.any()
        last_free, first_least = jnp.where(free, search.order, -1), jnp.where(least, search.order, n)
        column = jnp.where(ends, jnp.argmax(last_free), jnp.argmin(first_least))
        # The last remaining column takes the place of the one that is done.
        left = search.left - 1
        order = jnp.where(search.order == left, search.order[column], search.order).at[column].set(-1)
        done, sink = search.done.at[column].set(True), jnp.where(ends, column, -1)
        return _Search(far, seen, done, parent, order, left, matching.row_of[column], far[column], sink)

    nothing, width = jnp.zeros(n, bool), columns.sum()
    search = _Search(
        far=jnp.zeros_like(matching.v),
        seen=nothing,
        done=nothing,
        parent=jnp.full(n, -1),
        order=jnp.where(columns, width - 1 - jnp.arange(n), -1),
        left=width,
        row=start,
        length=jnp.zeros(levels, cost.dtype),
        sink=jnp.where(idle, 0, -1),
    )
    return jax.lax.while_loop(lambda search: search.sink < 0, spread, search)


def _flip(matching: _Matching, search: _Search, start: jax.Array, idle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (column_of, row_of) after every row along the path has taken the column that follows it."""

    def back(path):
        column, column_of, row_of, _ = path
        row = search.parent[column]
        return column_of[row], column_of.at[row].set(column), row_of.at[column].set(row), row == start

    path = (search.sink, matching.column_of, matching.row_of, idle)
    return jax.lax.while_loop(lambda path: ~path[-1], back, path)[1:3]


def _least(values: jax.Array, where: jax.Array) -> jax.Array:
    """Marks the least of values (..., n, L) among where (..., n) as a mask (..., n)."""
    for level in range(values.shape[-1]):
        value = values[..., level]
        where &= value == jnp.min(value, axis=-1, keepdims=True, where=where, initial=jnp.iinfo(value.dtype).max)
    return where


def _less(a: jax.Array, b: jax.Array) -> jax.Array:
    """Compares a and b level by level, (..., L) -> (...)."""
    less = jnp.zeros(jnp.broadcast_shapes(a.shape, b.shape)[:-1], bool)
    for level in reversed(range(a.shape[-1])):
        x, y = a[..., level], b[..., level]
        less = (x < y) | ((x == y) & less)
    return less
