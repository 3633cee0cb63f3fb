from __future__ import annotations

from shoal.endpoints.line_dealer import LineDealer, PlannedLine


def planned(*families: int, tokens: int = 10) -> list[PlannedLine]:
    return [
        PlannedLine(number, family, tokens, tokens, (number,))
        for number, family in enumerate(families)
    ]


def families(dealer: LineDealer, server: int) -> list[int]:
    return [line.family for line in dealer.queues[server].lines]


def test_an_idle_server_takes_whole_families_that_have_not_begun() -> None:
    dealer = LineDealer([planned(0, 0, 0, 0, 1, 1, 2, 2), []])
    dealer.queues[0].take()
    assert dealer.help(1, least=8)
    assert (families(dealer, 0), families(dealer, 1)) == ([0, 0, 0], [1, 1, 2, 2])
    assert [queue.tokens for queue in dealer.queues] == [30, 40]


def test_a_family_under_way_is_cut_only_where_it_is_large() -> None:
    dealer = LineDealer([planned(*[0] * 9), []])
    dealer.queues[0].take()
    assert not dealer.help(1, least=8)
    assert dealer.help(1, least=4)
    assert (len(dealer.queues[0].lines), len(dealer.queues[1].lines)) == (4, 4)


def test_the_lines_of_one_that_is_gone_go_to_the_others_and_stay_together() -> None:
    lines = planned(0, 0, 1, 1, 2, 2)
    dealer = LineDealer([lines, [], []])
    begun = dealer.queues[0].take()
    dealer.leave(0, [begun], [1, 2])
    assert families(dealer, 0) == []
    assert (families(dealer, 1), families(dealer, 2)) == ([0, 0, 2, 2], [1, 1])
    dealer.leave(1, [], [])
    assert families(dealer, 1) == [0, 0, 2, 2]
