"""Figures in words: numbers, ordinals, years, times, money, fractions, ranges and units, by a voice's own words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_DASHES = "-\u2010\u2011\u2012\u2013\u2212"
_LONGEST_EXACT, _LONGEST_SCALED = 9, 15
"""Digits of a number that is said as one; longer ones are said digit by digit, but where commas group them."""
_FIRST_YEAR, _LAST_YEAR = 1100, 2099
_LONGEST_UNIT, _UNIT_ENDS = 6, " .,;:!?'"


@dataclass(frozen=True)
class Figures:
    """The words. Those that are empty switch off the reading that needs them.

    ones, tens and scales (hundred, thousand, ...) and point are the words of numbers; currencies {"$": "dollars"};
    coins {"$": ["cent", "cents"]}; units {"km": "kilometers"} behind a number; singular {"dollars": "dollar"};
    minus, range and conjunction stand before, between and before the end of numbers; oh is the zero of 9:05 and 1905,
    full_hour that of 9:00; ordinals {"one": "first"} are those that are not made with -th; suffixes ["st", ...];
    fractions {"2": ["half", "halves"]} by denominator; numbered {"no": "number"} as in No. 5.
    """

    ones: list[str]
    tens: list[str]
    scales: list[str]
    point: str
    currencies: dict[str, str]
    coins: dict[str, list[str]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    singular: dict[str, str] = field(default_factory=dict)
    minus: str = ""
    range: str = ""
    conjunction: str = ""
    oh: str = ""
    full_hour: str = ""
    ordinals: dict[str, str] = field(default_factory=dict)
    suffixes: list[str] = field(default_factory=list)
    fractions: dict[str, list[str]] = field(default_factory=dict)
    numbered: dict[str, str] = field(default_factory=dict)

    def spoken(self, text: str) -> str:
        """Lower-case text with its figures, their signs and their units in words, and all else as it was."""
        found: list[str] = []
        at = 0
        while at < len(text):
            if self._begins(text, at):
                words, at = self._figure(text, at)
                found.append(f" {' '.join(words)} ")
            elif _is_letter(text, at):
                end = _behind(text, at, _is_letter)
                word, stopped = text[at:end], _skip_space(text, end + 1)
                numbers = word in self.numbered and text[end : end + 1] == "." and _is_digit(text, stopped)
                found.append(self.numbered[word] if numbers else word)
                at = stopped if numbers else end
            else:
                name = self.currencies.get(text[at])
                found.append(f" {name} " if name else text[at])
                at += 1
        return "".join(found)

    def number(self, value: int) -> list[str]:
        """The words of a number from 0 to what the largest scale counts."""
        if value < 20:
            return [self.ones[value]]
        if value < 100:
            return [self.tens[value // 10]] + (self.number(value % 10) if value % 10 else [])
        scale = 0 if value < 1000 else min((len(str(value)) - 1) // 3, len(self.scales) - 1)
        size = 1000**scale if scale else 100
        rest = self.number(value % size) if value % size else []
        return [*self.number(value // size), self.scales[scale], *rest]

    def _begins(self, text: str, at: int) -> bool:
        """Whether a figure begins here: a digit, or what stands before one."""
        if _is_digit(text, at):
            return True
        if text[at] in self.currencies:
            at = _skip_space(text, at + 1)
            return _is_digit(text, at) or (text[at : at + 1] == "." and _is_digit(text, at + 1))
        alone = at == 0 or not (_is_digit(text, at - 1) or _is_letter(text, at - 1) or text[at - 1] == ".")
        if text[at] == ".":
            return alone and _is_digit(text, at + 1)
        signed = self.minus and text[at] in _DASHES and alone
        return bool(signed) and at + 1 < len(text) and text[at + 1] not in _DASHES and self._begins(text, at + 1)

    def _figure(self, text: str, at: int) -> tuple[list[str], int]:
        """The words of the figure that begins here, and where it ends."""
        words: list[str] = []
        if text[at] in _DASHES:
            words, at = [self.minus], at + 1
        sign = text[at] if text[at] in self.currencies else ""
        at = _skip_space(text, at + 1) if sign else at
        whole, parts, end = _number(text, at)
        grouped = end - at > len(whole) + sum(len(part) + 1 for part in parts)
        if sign:
            spoken, end = self._money(sign, whole, grouped, parts, text, end)
        elif parts:
            spoken = self._decimal(whole, grouped, parts)
        else:
            spoken, end = self._special(whole, grouped, text, end)
        unit, behind = ("", end) if sign else self._unit(text, end)
        if unit:
            return [*words, *spoken, self._one_or_many(unit, words + spoken)], behind
        if self._ranges(text, at, end):
            return [*words, *spoken, self.range], end + 1
        return words + spoken, end

    def _special(self, whole: str, grouped: bool, text: str, end: int) -> tuple[list[str], int]:
        """The words of a whole number as what follows it tells: a time, a fraction, an ordinal, a decade, a year."""
        if whole[0] == "0" and len(whole) > 1 and text[end : end + 1] != ":":
            return self._cardinal(whole, grouped), end
        if not grouped:
            for reading in (self._time, self._fraction):
                words, behind = reading(whole, text, end)
                if words:
                    return words, behind
        words = self._cardinal(whole, grouped)
        for suffix in self.suffixes:
            if text.startswith(suffix, end) and not _is_letter(text, end + len(suffix)):
                return [*words[:-1], self._ordinal(words[-1])], end + len(suffix)
        if self.oh:
            words = words if grouped else self._year(whole) or words
            for suffix in ("s", "'s"):
                if text.startswith(suffix, end) and not _is_letter(text, end + len(suffix)):
                    return [*words[:-1], _plural(words[-1])], end + len(suffix)
        fraction, behind = self._mixed(text, end)
        return words + fraction, behind

    def _cardinal(self, whole: str, grouped: bool) -> list[str]:
        zero_first = whole[0] == "0" and len(whole) > 1
        longest = min(_LONGEST_SCALED if grouped else _LONGEST_EXACT, 3 * len(self.scales))
        if zero_first or len(whole) > longest:
            return [self.ones[int(digit)] for digit in whole]
        return self.number(int(whole))

    def _decimal(self, whole: str, grouped: bool, parts: Sequence[str]) -> list[str]:
        """3.14 by its digits; 1.2.13 number by number."""
        words = self._cardinal(whole, grouped) if whole else []
        for part in parts:
            digits = [self.ones[int(digit)] for digit in part]
            words += [self.point, *(digits if len(parts) == 1 else self._cardinal(part, False))]
        return words

    def _money(
        self, sign: str, whole: str, grouped: bool, parts: list[str], text: str, end: int
    ) -> tuple[list[str], int]:
        name = self.currencies[sign]
        words = self._decimal(whole, grouped, parts)
        scale = text[end + 1 : _behind(text, end + 1, _is_letter)] if text[end : end + 1] == " " else ""
        if scale in self.scales:
            return [*words, scale, name], end + 1 + len(scale)
        if sign not in self.coins or len(parts) != 1 or len(parts[0]) != 2:
            return [*words, self._one_or_many(name, words)], end
        coins = self.number(int(parts[0]))
        one, many = self.coins[sign]
        cents = [*coins, one if coins == [self.ones[1]] else many] if int(parts[0]) else []
        large = self._cardinal(whole or "0", grouped)
        if cents and large == [self.ones[0]]:
            return cents, end
        return [*large, self._one_or_many(name, large), *([self.conjunction] if cents else []), *cents], end

    def _time(self, whole: str, text: str, end: int) -> tuple[list[str], int]:
        """9:30, 9:05, 9:00, 12:34:56."""
        if not self.oh or len(whole) > 2 or int(whole) > 24:
            return [], end
        words, count = self.number(int(whole)), 0
        while text[end : end + 1] == ":" and count < 2:
            behind = _behind(text, end + 1, _is_digit)
            part = text[end + 1 : behind]
            if len(part) != 2 or int(part) > 59:
                break
            words += [self.oh] * (part[0] == "0" and part != "00")
            words += self.number(int(part)) if part != "00" else []
            end, count = behind, count + 1
        if count == 1 and len(words) == 1 and self._unit(text, end)[0] == "":
            words.append(self.full_hour)
        return (words, end) if count else ([], end)

    def _fraction(self, whole: str, text: str, end: int) -> tuple[list[str], int]:
        """3/4, but neither 24/7 nor a date."""
        if text[end : end + 1] != "/" or text[max(0, end - len(whole) - 1) : end - len(whole)] == "/":
            return [], end
        behind = _behind(text, end + 1, _is_digit)
        names = self.fractions.get(text[end + 1 : behind])
        if names is None or text[behind : behind + 1] == "/" or len(whole) > 2:
            return [], end
        count = int(whole)
        if not 0 < count < int(text[end + 1 : behind]):
            return [], end
        return [*self.number(count), names[count > 1]], behind

    def _mixed(self, text: str, end: int) -> tuple[list[str], int]:
        """The fraction of 1 1/2."""
        first = end + 1
        behind = _behind(text, first, _is_digit)
        if text[end : end + 1] != " " or behind == first:
            return [], end
        words, behind = self._fraction(text[first:behind], text, behind)
        return ([self.conjunction, *words], behind) if words else ([], end)

    def _ordinal(self, word: str) -> str:
        if word in self.ordinals:
            return self.ordinals[word]
        return word[:-1] + "ieth" if word.endswith("y") else word + "th"

    def _year(self, whole: str) -> list[str]:
        """1900, 1905, 1999, 2026 by their halves; none for 2000 to 2009 and what is no year."""
        if len(whole) != 4 or not _FIRST_YEAR <= int(whole) <= _LAST_YEAR or whole.startswith("200"):
            return []
        century, rest = int(whole[:2]), int(whole[2:])
        if rest == 0:
            return [*self.number(century), self.scales[0]]
        return [*self.number(century), *([self.oh] if rest < 10 else []), *self.number(rest)]

    def _unit(self, text: str, end: int) -> tuple[str, int]:
        """The unit behind a number, at most one space away, and its end; empty where there is none."""
        first = end + 1 if text[end : end + 1] == " " else end
        behind = first
        while behind < len(text) and behind - first <= _LONGEST_UNIT and text[behind] not in _UNIT_ENDS:
            behind += 1
        while behind > first:
            unit = text[first:behind]
            if unit in self.units and not _is_letter(text, behind):
                return self.units[unit], behind
            behind -= 1
        sign = text[first : first + 1]
        if sign in self.currencies and not _is_digit(text, first + 1):
            return self.currencies[sign], first + 1
        return "", end

    def _one_or_many(self, name: str, words: list[str]) -> str:
        one = words[0] == self.ones[1] and (len(words) == 1 or (len(words) == 2 and words[1] not in self.scales))
        return self.singular.get(name, name) if one else name

    def _ranges(self, text: str, first: int, end: int) -> bool:
        """Whether a range goes on here, as in 1990-1995, and neither a telephone number nor a date."""
        if not self.range or end >= len(text) or text[end] not in _DASHES or not _is_digit(text, end + 1):
            return False
        behind = _behind(text, end + 1, _is_digit)
        chained = first > 0 and text[first - 1] in _DASHES
        goes_on = behind < len(text) and text[behind] in _DASHES and _is_digit(text, behind + 1)
        telephone = (end - first, behind - end - 1) == (3, 4)
        return not (chained or goes_on or telephone or text[first] == "0" or text[end + 1] == "0")


def _is_digit(text: str, at: int) -> bool:
    return 0 <= at < len(text) and "0" <= text[at] <= "9"


def _is_letter(text: str, at: int) -> bool:
    return 0 <= at < len(text) and "a" <= text[at] <= "z"


def _behind(text: str, at: int, belongs: Callable[[str, int], bool]) -> int:
    """The end of the run that begins here."""
    while belongs(text, at):
        at += 1
    return at


def _skip_space(text: str, at: int) -> int:
    return _behind(text, at, lambda text, at: text[at : at + 1] == " ")


def _number(text: str, at: int) -> tuple[str, list[str], int]:
    """The digits of 1,250 without commas, those behind each point, and the end."""
    end = _behind(text, at, _is_digit)
    whole = text[at:end]
    while whole and text[end : end + 1] == ",":
        behind = _behind(text, end + 1, _is_digit)
        if behind - end != 4:
            break
        whole += text[end + 1 : behind]
        end = behind
    parts = []
    while text[end : end + 1] == "." and _is_digit(text, end + 1):
        behind = _behind(text, end + 1, _is_digit)
        parts.append(text[end + 1 : behind])
        end = behind
    return whole, parts, end


def _plural(word: str) -> str:
    return word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("x") else "s")
