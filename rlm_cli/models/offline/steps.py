"""The code that the offline root writes, turn by turn. Plain Python for the session; values are assigned in front."""

from __future__ import annotations

PROBE = r"""
many = hasattr(context, "keys")
names = list(context) if many else [""]
text_of = context.__getitem__ if many else lambda name: context
print(len(context), "documents" if many else "characters")
for name in names[:2]:
    print(name, repr(text_of(name)[:150]))
"""

# Needs exact, words, latest, most_hits, nothing.
FILTER = r"""
import heapq, math, re
from collections import Counter
total = sum(text.count("\n") + bool(text and not text.endswith("\n")) for text in map(text_of, names))
hits, inside, weight, patterns = {}, {}, {}, {}
for term in exact + words:
    whole = r"(?!\w)" if term in exact else ""
    pattern = patterns[term] = re.compile(r"(?<!\w)" + re.escape(term) + whole, re.I)
    hits[term] = grep(pattern, limit=most_hits)
    inside[term] = {hit.document for hit in hits[term]}
    inside[term].update(filter(pattern.search, names))
    weight[term] = math.log(1 + total / max(1, len(hits[term])))
    print(f"{'over ' * hits[term].truncated}{len(hits[term])} of", total, "lines have", repr(term))

scores, documents, where = Counter(), Counter(), {}
for term in exact + sorted(words, key=weight.get, reverse=True):
    value = weight[term] * (2 if term in exact else 1)
    for hit in hits[term]:
        key = hit.document, hit.line
        # In one document, exact terms decide where to look.
        if many or term in exact or not exact or key in where:
            where.setdefault(key, hit)
            scores[key] += value
    for name in inside[term] if many else ():
        documents[name] += value / 2

place = {name: number for number, name in enumerate(names)}
def rank(key):
    order = (place[key[0]], key[1])
    score = round(scores[key] + documents[key[0]], 6)
    return (score, order) if latest else (score, (-order[0], -order[1]))

best = heapq.nlargest(24, scores, key=rank)
if exact and not any(inside[term] for term in exact):
    best = []
for key in best[:5]:
    print(round(rank(key)[0], 1), *key, where[key].text.strip()[:90])
if not best:
    FINAL(nothing)
"""

# Needs question, most_passages.
FAN_OUT = r"""
def window(hit):
    text = text_of(hit.document)
    if len(text) <= 3000:
        return 0, len(text)
    start = text.rfind("\n", 0, max(hit.start - 300, 0)) + 1
    stop = text.find("\n", hit.end + 300)
    stop = len(text) if stop < 0 else stop
    return max(start, hit.start - 1000, 0), min(stop, hit.end + 1000)

passages, best_score = [], rank(best[0])[0]
for key in best:
    hit, near = where[key], rank(key)[0] >= 0.8 * best_score
    taken = any(name == hit.document and start <= hit.start < stop
                for name, start, stop in passages)
    if near and not taken:
        passages.append((hit.document, *window(hit)))
passages = passages[:most_passages]

prompts = []
for name, start, stop in passages:
    text = text_of(name)
    head = text[:text.find("\n") + 1][:300] if start else ""
    prompts.append(f"Question: {question}\n\n"
                   f"Passage ({name or 'input'}):\n{head}{text[start:stop]}")
replies = llm_query_batched(prompts)
answers = [(passage[0], str(reply).strip())
           for passage, reply in zip(passages, replies) if reply]
answers = [pair for pair in answers if pair[1] != "NOT FOUND"]
if not any(replies):  # no sub-call went through: the lines themselves
    answers = [(key[0], where[key].text.strip()[:400]) for key in best]
print(len(prompts), "passages,", len(answers), "answers")
for name, reply in answers[:5]:
    print("candidate:", reply[:200].replace("\n", " "))
"""

# Lines that show a value, the best first.
_EVIDENCE = r"""
def evidence(*values):
    return [where[key] for key in best if any(value in where[key].text for value in values)][:3]
"""

COUNT_LINES = r"""
lines = [{(hit.document, hit.line) for hit in found}
         for found in hits.values() if found]
matching = set.intersection(*lines)
count = len(matching) or min(map(len, lines))
if any(found.truncated for found in hits.values()):  # too many to hold: counted where they are
    held = [patterns[term].pattern for term, found in hits.items() if found]
    count = grep_count(re.compile("^" + "".join(f"(?=.*?{one})" for one in held), re.I | re.M))
    count = count or min(grep_count(patterns[term]) for term, found in hits.items() if found)
print("candidate:", count)
shown = [where[key] for key in sorted(matching)[:3]]
for hit in shown:
    print(hit.document, hit.line, hit.text.strip()[:90])
"""

COUNT_DOCUMENTS = r"""
sets = [found for found in inside.values() if found]
matching = set.intersection(*sets) or min(sets, key=len)
lines = [grep_count(patterns[term]) if found.truncated else len(found)
         for term, found in hits.items() if found]
count = len(matching) if many else min(lines)
print("candidate:", count)
print(sorted(matching)[:10])
shown = []
"""

COUNTED = "FINAL(str(count), evidence=shown)"

_VALUES = (
    _EVIDENCE
    + r"""
values = list(dict.fromkeys(reply for _, reply in answers))
short = [value for value in values if len(value) <= 80] or values
"""
)
ONE_VALUE = _VALUES + "FINAL(short[0], evidence=evidence(short[0])) if short else FINAL(nothing)"
VALUES = _VALUES + 'FINAL(", ".join(short) or nothing, evidence=evidence(*short))'

# Needs nothing, as those above and below.
ONE_DOCUMENT = r"""
name, reply = answers[0] if answers else ("", nothing)
FINAL(name or reply)
"""
DOCUMENTS = r"""
found = dict.fromkeys(name or reply for name, reply in answers)
FINAL(", ".join(found) or nothing)
"""
PASSAGES = r"""
found = list(dict.fromkeys(reply for _, reply in answers))
FINAL("\n".join(found[:3]) or nothing, evidence=found[:3])
"""
