"""What a cell of a table says: a number, a date, a level, or nothing."""

import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from numbers import Number
from typing import Any

MISSING = {"", "na", "n/a", "n.a.", "nan", "-nan", "nat", "null", "none", "?", ".", "-", "--", "<na>"}
MISSING |= {"#n/a", "#value!", "#ref!", "#div/0!", "#name?", "#num!", "#null!"}
DECORATION = re.compile(r"[\s$€£¥₹%]|(?<=\d)['’](?=\d{3}(?!\d))")
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}((,\d{3})+|(,\d{2})+,\d{3})(\.\d*)?")
"""As ``1,234,567``, or, in India, ``12,34,567``. No such number begins with a zero."""
DECIMAL_COMMA = re.compile(r"[-+]?\d{0,3}(\.?\d{3})*\d*,\d+")
DECIMAL_POINT = re.compile(r"[-+]?(\d*\.(\d{1,2}|\d{4,})|0*\.\d+|\d{4,}\.\d+|\d+\.?\d*[eE][-+]?\d+)([eE][-+]?\d+)?")
"""What has one point, which does not part thousands."""
IN_BRACKETS = re.compile(r"^\((.*\d.*)\)$")
"""As accountants write negative numbers."""
CLOCK = re.compile(r"(\d+):([0-5]\d)(?::([0-5]\d(?:\.\d*)?))?(?:\s*([ap])\.?m\.?)?", re.IGNORECASE)
CODE = re.compile(r"0\d+")
"""As postal codes have it: no number begins with a zero."""
DAYS: tuple[str, ...] = (
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d-%m-%Y",
    "%d-%b-%Y",
    "%d.%m.%y",
    "%m/%d/%y",
    "%d/%m/%y",
)
DAYS += ("%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y")
TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
DATE_FORMATS = ("iso", *(day + time for time in TIMES for day in DAYS))
FIRST = 20
"""Values that show which formats of dates there can be."""


def present(values: Sequence[Any]) -> list[Any]:
    """The values with None for what is missing: NaN, NaT, and strings such as ``"NA"``; strings without spaces around.

    >>> present([1.0, float("nan"), " a ", "N/A", None])
    [1.0, None, 'a', None, None]
    """
    found = []
    for value in values:
        if isinstance(value, str):
            value = value.strip()
            found.append(None if value.casefold() in MISSING else value)
            continue
        if type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0:
            value = _plain(value).item()
        missing = value is None or type(value).__name__ in ("NAType", "NaTType")
        found.append(None if missing or (isinstance(value, Number) and value != value) else value)
    return found


def spelt_missing(values: Sequence[Any]) -> list[str]:
    """The strings among the values, each once, that say that there is none.

    >>> spelt_missing(["a", "NA", "", None, "-", "NA"])
    ['-', 'NA']
    """
    return sorted({one for one in values if isinstance(one, str) and one.strip() and present([one]) == [None]})


def _plain(values: Any) -> Any:
    """NumPy's, with times that Python's own can hold: nanoseconds would come out as whole numbers."""
    kind = values.dtype.kind
    return values.astype(f"{'datetime64' if kind == 'M' else 'timedelta64'}[us]") if kind in "mM" else values


def listed(column: Any) -> list[Any]:
    """As Python's own values: those of polars, pandas, PyTorch, NumPy and Arrow."""
    if type(column).__module__ == "numpy":
        column = _plain(column)
    for way in ("to_list", "tolist", "to_pylist"):
        if hasattr(column, way):
            return getattr(column, way)()
    return list(column)


def decimal_mark(values: Sequence[Any]) -> str:
    """``","`` if that is what parts the decimals in the strings among the values, otherwise ``"."``.

    >>> decimal_mark(["3,14", "1,234"]), decimal_mark(["1,234", "5,678.90"])
    (',', '.')
    """
    texts = [_bare(value) for value in values if isinstance(value, str) and "," in value]
    comma = any(not THOUSANDS.fullmatch(text) for text in texts) and all(map(DECIMAL_COMMA.fullmatch, texts))
    return "," if comma else "."


def mark_in(values: Sequence[Any], usual: str) -> str:
    """The decimal mark of a column whose numbers have had the mark ``usual``: another file may have the other one.

    >>> mark_in(["0.5", "12.25"], ","), mark_in(["1.234", "5"], ","), mark_in(["1.234", "0,5"], ",")
    ('.', ',', ',')
    """
    if usual == ".":
        points = any(isinstance(value, str) and "." in value and "," not in value for value in values)
        return "." if points else decimal_mark(values)
    texts = [_bare(value) for value in values if isinstance(value, str)]
    return "." if not any("," in text for text in texts) and any(map(DECIMAL_POINT.fullmatch, texts)) else ","


def number(value: Any, decimal: str = ".") -> float:
    """The number that a value is or spells; NaN for None.

    Currency signs, percent signs, spaces and the marks between thousands have no say in it: ``"45 %"`` is 45. Brackets
    around it are a minus.

    Raises:
        ValueError: it is none.

    >>> [number("$1,234.50"), number("45 %"), number("3,5", decimal=","), number(True), number("(2.50)")]
    [1234.5, 45.0, 3.5, 1.0, -2.5]
    """
    if value is None:
        return math.nan
    if not isinstance(value, str):
        if isinstance(value, date):
            raise ValueError("a date is no number")
        try:
            return float(value)
        except (TypeError, OverflowError) as error:
            raise ValueError(str(error)) from None
    try:
        if "_" not in value and (decimal == "." or "." not in value):
            return float(value)
    except ValueError:
        pass
    text = _bare(value)
    if decimal == "," and not DECIMAL_POINT.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    elif THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if "_" in text:
        raise ValueError(f"{value!r} is no number")
    return float(text)


def _bare(text: str) -> str:
    return IN_BRACKETS.sub(r"-\1", DECORATION.sub("", text)).replace("−", "-")


def is_code(value: Any) -> bool:
    """Whether it is digits that begin with a zero, which a number would lose."""
    return isinstance(value, str) and CODE.fullmatch(value) is not None


def numbers(values: Sequence[Any], decimal: str = ".") -> tuple[list[float], list[Any]]:
    """The number of each value, NaN for what is missing or no finite number, and the latter values.

    >>> numbers(["1", None, "abc", float("inf")])
    ([1.0, nan, nan, nan], ['abc', inf])
    """
    try:
        found = [math.nan if value is None else number(value, decimal) for value in values]
    except ValueError:
        found = []
        for value in values:
            try:
                found.append(number(value, decimal))
            except ValueError:
                found.append(math.inf)
    odd = [value for value, x in zip(values, found, strict=True) if math.isinf(x)]
    if odd:
        found = [math.nan if math.isinf(x) else x for x in found]
    return found, odd


def hours(values: Sequence[Any]) -> list[Any]:
    """The values, and in the place of times of day and of durations the hours that they are.

    >>> hours(["14:30", "9:15 pm", "36:00:36", timedelta(days=1), time(6, 45), "3.5", None])
    [14.5, 21.25, 36.01, 24.0, 6.75, '3.5', None]
    """
    found = []
    for value in values:
        if isinstance(value, str) and (clock := CLOCK.fullmatch(value)):
            hour, minute, second, half = clock.groups(default="")
            whole = int(hour) % 12 + 12 * (half in "pP") if half else int(hour)
            value = whole + int(minute) / 60 + float(second or 0) / 3600
        elif isinstance(value, timedelta):
            value = value / timedelta(hours=1)
        elif isinstance(value, time):
            value = value.hour + value.minute / 60 + (value.second + value.microsecond / 1e6) / 3600
        found.append(value)
    return found


def moment(value: Any, date_format: str) -> datetime | None:
    """The point in time that a value is or spells, in UTC where it says none; None if it does not.

    >>> moment("2024-02-29", "iso").weekday(), moment("31/12/2024", "%m/%d/%Y")
    (3, None)
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value) if date_format == "iso" else datetime.strptime(value, date_format)
        except ValueError:
            return None
    elif isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value


def date_formats(values: Sequence[Any], mostly: float) -> list[tuple[str, list[Any]]]:
    """The formats, of :data:`DATE_FORMATS`, by which that share of the values are dates, those by which most are; and
    the values that are none."""
    found = []
    for form in DATE_FORMATS:
        if any(moment(value, form) for value in values[:FIRST]):
            odd = [value for value in values if moment(value, form) is None]
            if len(odd) <= (1 - mostly) * len(values):
                found.append((form, odd))
    fewest = min((len(odd) for _, odd in found), default=0)
    return [(form, odd) for form, odd in found if len(odd) == fewest]


def date_parts(value: datetime | None) -> tuple[float, ...]:
    """Days since 1970, month, weekday and hour; NaN for None.

    >>> date_parts(datetime(1970, 1, 2, 12, tzinfo=UTC))
    (1.5, 1.0, 4.0, 12.0)
    """
    if value is None:
        return (math.nan,) * 4
    days = (value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400
    return (days, float(value.month), float(value.weekday()), value.hour + value.minute / 60)


DATE_PARTS = ("day", "month", "weekday", "hour")


def spelling(text: str) -> str:
    """What two spellings of one name have in common: letters of either case, however composed, and single spaces.

    >>> spelling("Cafe\u0301  noir") == spelling("caf\u00e9 noir")
    True
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(one for one in plain if unicodedata.category(one) != "Cf").split())


def level(value: Any) -> str:
    """The name of a level: the same for ``1``, ``1.0`` and ``"1.0"``, and for ``True`` and ``"true"``.

    >>> [level(value) for value in (1, 1.0, "1.0", True, "true", "a b")]
    ['1', '1', '1', 'True', 'True', 'a b']
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    if text.casefold() in ("true", "false"):
        return text.capitalize()
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text
