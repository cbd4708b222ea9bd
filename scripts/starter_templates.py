"""Sentences written from templates, for what labelled corpora are short of.

Negation near and far, expectations and how they turned out, "used to ..., now", questions with answers,
somebody else's opinion against one's own, middling words, plain facts. Words, things and sentences differ from
those of `lstm_sentiment.made_up`, which the result is examined with.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

POSITIVE, NEUTRAL, NEGATIVE = "positive", "neutral", "negative"
OPPOSITE = {POSITIVE: NEGATIVE, NEGATIVE: POSITIVE}

WORDS: dict[str, str] = {
    "thing": """novel; chapter; plot; acting; soundtrack; script; trailer; sequel; documentary; episode; season;
        burger; pasta; salad; dessert; sauce; wine; beer; tea; steak; sushi; bread; dinner; lunch; curry;
        manager; waiter; staff; receptionist; driver; doctor; dentist; nurse; teacher; coach; pilot; crew; team;
        apartment; bathroom; bed; pool; view; location; lobby; parking; garden; kitchen; gym; spa; train; ferry;
        seat; airline; airport; tablet; keyboard; battery; charger; headphones; speaker; printer; router; monitor;
        software; interface; documentation; installer; patch; plugin; library; release; feature; checkout; price;
        packaging; fabric; dress; shoes; sweater; zipper; mattress; sofa; lamp; blender; vacuum cleaner; car;
        engine; bike; tent; backpack; toy; game; level design; story; course; lecture; class; workshop; clinic;
        bank; loan; insurance; card; company; offer; plan; idea; project; meeting; answer; help desk; hotline;
        customer service; quality; design; sound; picture; colour; smell; taste; texture; atmosphere; event;
        festival; play; album; song; voice; performance; report; article; speech; weather; trip; cruise; guide""",
    "positive": """good; great; excellent; superb; terrific; outstanding; impressive; delightful; pleasant; nice;
        perfect; beautiful; delicious; friendly; helpful; reliable; comfortable; charming; enjoyable; splendid;
        marvelous; phenomenal; fabulous; gorgeous; stunning; remarkable; exceptional; incredible; awesome; fun;
        clever; smart; elegant; generous; welcoming; professional; spotless; fresh; tasty; entertaining; funny;
        moving; touching; captivating; refreshing; satisfying; worthwhile; superior; flawless; fine; sweet; cute;
        adorable; exciting; inspiring; thoughtful; polite; efficient; smooth; first-class; top-notch; magnificent;
        well made; well written; worth every penny; a joy; a pleasure; a gem; a delight; a treat""",
    "negative": """bad; terrible; awful; horrible; dreadful; poor; lousy; disappointing; boring; dull; nasty; ugly;
        rude; dirty; broken; useless; worthless; annoying; frustrating; unpleasant; painful; sad; pathetic; weak;
        cheap-looking; flimsy; noisy; stale; bland; tasteless; overpriced; unreliable; uncomfortable; slow; buggy;
        confusing; ridiculous; stupid; silly; lame; creepy; weird; unfriendly; unhelpful; incompetent; careless;
        sloppy; shoddy; inferior; atrocious; appalling; horrendous; abysmal; disgusting; filthy; gross; depressing;
        tedious; predictable; forgettable; unbearable; miserable; unprofessional; dishonest; misleading; defective;
        faulty; rotten; mean; hostile; a mess; a disaster; a scam; a rip-off; a joke; a nightmare; a letdown;
        a waste of money; a waste of time; badly made; poorly written; difficult; rough; hard to use""",
    "middling": """average; okay; ok; so-so; mediocre; passable; adequate; acceptable; ordinary; unremarkable;
        middling; decent enough; tolerable; fair; standard; run of the mill; middle of the road; alright; all right;
        neither good nor bad; neither great nor terrible; nothing special; nothing out of the ordinary;
        about what I expected; fine, nothing more; just okay; just average; not great, not terrible; meh;
        hit and miss; a mixed bag; good in parts; 50/50; moderate; satisfactory""",
    "plain": """blue; green; wooden; plastic; public; private; local; foreign; Canadian; German; Brazilian; Korean;
        Spanish; digital; electric; annual; weekly; two-storey; second-hand; rectangular; round; medium-sized;
        commercial; regional; national; European; African; Asian; metal; grey; black; white; seasonal; optional;
        temporary; Mexican; Turkish; Dutch; international; standard-size; left-handed; wireless; printed""",
    "liked": """loved; liked; enjoyed; adored; appreciated; admired; recommend; was impressed by; was happy with;
        was pleased with; was delighted with; am a fan of; am glad I chose; look forward to; fell in love with""",
    "hated": """hated; disliked; despised; detested; regretted; was annoyed by; was disappointed by; was let down by;
        was fed up with; was sick of; could not stand; complained about; was disgusted by; got tired of""",
    "like": "like; love; enjoy; recommend; appreciate; adore; trust; value; admire; care for",
    "dislike": "dislike; hate; detest; despise; regret; loathe; dread; resent",
    "very": "very; really; so; extremely; absolutely; truly; quite; pretty; incredibly; just; simply; totally",
    "who": """my sister; my brother; my neighbour; my boss; my colleague; everybody; the critics; the reviews;
        most people; some people; others; my friends; the press; the salesman; the internet; they""",
    "when": """last year; in March; two weeks ago; back then; years ago; at first; in the beginning; in the past;
        before the update; under the old owner; when it opened; before; once; when I was younger; initially""",
    "now": "now; today; these days; nowadays; lately; since then; this time; currently; recently; by now",
    "aside": """given the price; after all these years; to be honest; considering the wait; all things considered;
        after two weeks of use; with three kids; on a rainy Sunday; as a long-time customer; at this time of day;
        for a place downtown; despite the weather; having been there twice; being from the north; in my opinion;
        after everything I read; for what I paid; given that it was Christmas""",
    "month": "January; March; May; July; August; October; December",
    "number": "two; three; four; five; six; eight; nine; ten; twelve; 15; 20; 30; 100",
    "place": "the kitchen; the corner; the box; the second floor; the station; the garage; the menu; the list",
    "shop": "online; in a shop downtown; at the airport; from their website; at the market; by phone",
    "whole": "everything; the whole thing; the rest; all of it; the experience; our visit; my order",
}  # fmt: skip
LISTS = {name: [" ".join(word.split()) for word in words.split(";")] for name, words in WORDS.items()}

# A template is followed by its label when {p} is praise; {n} is then blame, and the other way round. {m} is
# middling, {f} plain. `likes` and `hates` follow the side too. Two labels: each for half of the sentences.
SIDED: list[tuple[str, str]] = [
    ("the {thing} was {p}", POSITIVE), ("the {thing} is {very} {p}", POSITIVE), ("{p} {thing}", POSITIVE),
    ("what {a p} {thing}!", POSITIVE), ("{very} {p} {thing}, {very} {p2} {thing2}", POSITIVE),
    ("I {liked} the {thing}", POSITIVE), ("{p}. {P2}.", POSITIVE), ("this {thing} is {p} and {p2}", POSITIVE),
    ("we found the {thing} {very} {p}", POSITIVE), ("how {p} was that {thing}!", POSITIVE), ("{p}!", POSITIVE),
    ("I think the {thing} is {p}", POSITIVE), ("the {thing}, {aside}, is {p}", POSITIVE), ("so {p}", POSITIVE),
    ("it is {a p} {thing} and I {like} it", POSITIVE), ("{whole} was {p}", POSITIVE), ("{very} {p}", POSITIVE),
    ("I do {like} this {thing}", POSITIVE), ("the {thing} could not have been more {p}", POSITIVE),
    ("I have never had such {a p} {thing}", POSITIVE), ("never seen {a p} {thing} like this, it is {p2}", POSITIVE),
    # negation, near
    ("the {thing} is not {p}", NEGATIVE), ("the {thing} isn't {p}", NEGATIVE), ("not {p}", NEGATIVE),
    ("the {thing} wasn't {p} at all", NEGATIVE), ("not {p} at all", NEGATIVE), ("not a {p} {thing}", NEGATIVE),
    ("this is not {a p} {thing}", NEGATIVE), ("it was never {p}", NEGATIVE), ("the {thing} is hardly {p}", NEGATIVE),
    ("the {thing} was far from {p}", NEGATIVE), ("the {thing} was anything but {p}", NEGATIVE),
    ("I do not {like} the {thing}", NEGATIVE), ("I don't {like} this {thing}", NEGATIVE),
    ("I didn't {like} the {thing} one bit", NEGATIVE), ("we did not {like} it", NEGATIVE),
    ("there is nothing {p} about the {thing}", NEGATIVE), ("nothing about this {thing} is {p}", NEGATIVE),
    ("the {thing} is neither {p} nor {p2}", NEGATIVE), ("it's not {p} and not {p2}", NEGATIVE),
    ("the {thing} is no longer {p}", NEGATIVE), ("the {thing} isn't {p} anymore", NEGATIVE),
    ("the {thing} lacks everything that would make it {p}", NEGATIVE),
    ("not {very} {p}", NEGATIVE), ("the {thing} isn't {very} {p}", NEGATIVE), ("the {thing} ain't {p}", NEGATIVE),
    # negation, far
    ("I don't think the {thing} is {p}", NEGATIVE), ("I do not believe that this {thing} is {p}", NEGATIVE),
    ("I wouldn't say that the {thing} was {p}", NEGATIVE), ("I would not call the {thing} {p}", NEGATIVE),
    ("I can't say, {aside}, that the {thing} is {p}", NEGATIVE), ("nobody could call this {thing} {p}", NEGATIVE),
    ("I would never say, {aside}, that it is {a p} {thing}", NEGATIVE),
    ("I don't think, {aside}, that the {thing} was {p}", NEGATIVE), ("no one found the {thing} {p}", NEGATIVE),
    ("it can't be said, {aside}, that we {liked} the {thing}", NEGATIVE),
    ("I am not sure that anybody would find this {thing} {p}", NEGATIVE),
    ("I doubt that the {thing} is {p}", NEGATIVE), ("I fail to see what is {p} about the {thing}", NEGATIVE),
    # expectations
    ("I thought the {thing} would be {p}, but it wasn't", NEGATIVE),
    ("I expected the {thing} to be {p}, but it was not", NEGATIVE),
    ("I expected {a p} {thing} and got {a n} one", NEGATIVE),
    ("we hoped for {a p} {thing}. It was {n}.", NEGATIVE), ("I thought it would be {p}. it wasn't.", NEGATIVE),
    ("I was told the {thing} was {p}, it turned out to be {n}", NEGATIVE),
    ("I was sure that I would {like} the {thing}, and I did", POSITIVE),
    ("I expected the {thing} to be {p} and it was", POSITIVE),
    ("I feared the {thing} would be {n}, but it was {p}", POSITIVE),
    ("contrary to what I feared the {thing} was {p}", POSITIVE),
    # then and now
    ("the {thing} used to be {n}, but now it is {p}", POSITIVE), ("it used to be {n}, now it is {p}", POSITIVE),
    ("I used to {dislike} this {thing}, but {now} I {like} it", POSITIVE),
    ("{when} the {thing} was {n}, {now} it is {p}", POSITIVE), ("{when} it was {n}. {Now} it is {p}.", POSITIVE),
    ("I {like} the {thing} {now}, {when} I didn't", POSITIVE), ("the {thing} is {p} {now}, it was {n} {when}", POSITIVE),
    ("{when} I thought the {thing} was {n}; {now} I think it is {p}", POSITIVE),
    ("I used to think it was {n}, although now I find it {p}", POSITIVE),
    ("the {thing} has gone from {n} to {p}", POSITIVE), ("started {n}, ended {p}", POSITIVE),
    ("I {liked} it {when}. Not anymore.", NEGATIVE), ("it used to be {p}", NEGATIVE),
    ("the {thing} was {p} {when}, but not {now}", NEGATIVE), ("the {thing} used to be so {p}. What happened?", NEGATIVE),
    # questions with an answer
    ("is the {thing} {p}? yes", POSITIVE), ("is the {thing} {p}? No.", NEGATIVE), ("was it {p}? not really", NEGATIVE),
    ("do I {like} the {thing}? yes, I do", POSITIVE), ("do I {like} the {thing}? no, I don't", NEGATIVE),
    ("do I think the {thing} was {p}? Yes.", POSITIVE), ("do I think the {thing} was {p}? no", NEGATIVE),
    ("would I call it {p}? Absolutely.", POSITIVE), ("would I call it {p}? never", NEGATIVE),
    ("did we {like} it? of course", POSITIVE), ("did we {like} it? Not at all.", NEGATIVE),
    ("was the {thing} {p}? Definitely", POSITIVE), ("was the {thing} {p}? Hardly.", NEGATIVE),
    # somebody else's opinion
    ("{who} said the {thing} was {n}, but I found it {p}", POSITIVE), ("{who} called it {n}. I {like} it.", POSITIVE),
    ("{who} thought it was {n}, I thought it was {p}", POSITIVE), ("{who} {hated} it, I {liked} it", POSITIVE),
    ("I think the {thing} is {p}, {who} thinks it is {n}", POSITIVE), ("for me it's {p}, whatever {who} may say", POSITIVE),
    ("I {liked} the {thing}, although {who} {hated} it", POSITIVE), ("{who} {hated} it, but I didn't", POSITIVE),
    ("despite what {who} said, the {thing} is {p}", POSITIVE), ("unlike {who} I {like} the {thing}", POSITIVE),
    # concession: the main clause decides
    ("although the {thing} was {n}, {whole} was {p}", POSITIVE), ("{n} {thing}, but {whole} was {p}", POSITIVE),
    ("even though the {thing} was {n} I {liked} {whole}", POSITIVE), ("despite the {n} {thing}, {whole} was {p}", POSITIVE),
    ("the {thing} may look {n}, but it is {p}", POSITIVE), ("yes, the {thing} is {n}, still {whole} is {p}", POSITIVE),
    # what might have been
    ("it would have been {p} if it had worked", "worse"), ("I wish the {thing} were {p}", "worse"),
    ("the {thing} could have been {p}", "worse"), ("the {thing} should be {p}", "worse"),
    ("if the {thing} were {p} I would {like} it", "worse"), ("the {thing} is supposed to be {p}", "worse"),
    # as good as things to come
    ("the {thing} is more {p} than ever", POSITIVE), ("not only {p}, but {p2} too", POSITIVE),
    ("not only is the {thing} {p}, it is also {p2}", POSITIVE), ("no {thing} is more {p} than this one", POSITIVE),
]  # fmt: skip
PLAIN: list[tuple[str, str]] = [
    ("the {thing} is {m}", NEUTRAL), ("{m}", NEUTRAL), ("it was {m}", NEUTRAL), ("the {thing} was {m}, {aside}", NEUTRAL),
    ("I'd say the {thing} was {m}", NEUTRAL), ("{m} {thing}", NEUTRAL), ("{whole} was {m}", NEUTRAL),
    ("I thought it was {m}", NEUTRAL), ("the {thing} was {m} and the {thing2} was {m2}", NEUTRAL),
    ("we found the {thing} {m}", NEUTRAL), ("overall {m}", NEUTRAL), ("{m}, I guess", NEUTRAL),
    ("some of it is {p}, some of it is {n}", NEUTRAL), ("I have no strong opinion about the {thing}", NEUTRAL),
    ("I neither {like} nor {dislike} the {thing}", NEUTRAL), ("the {thing} has its ups and downs", NEUTRAL),
    ("I can take it or leave it", NEUTRAL), ("not sure what to think of the {thing}", NEUTRAL),
    ("{p} at times, {n} at others", NEUTRAL), ("neither {p} nor {n}", NEUTRAL), ("neither {n} nor {p}", NEUTRAL),
    ("the {thing} is neither {p} nor {n}", NEUTRAL), ("it is what it is", NEUTRAL),
    # facts
    ("the {thing} is {f}", NEUTRAL), ("it is a {f} {thing}", NEUTRAL), ("this is a {f} {thing}", NEUTRAL),
    ("the {thing} is not {f}", NEUTRAL), ("this isn't a {f} {thing}", NEUTRAL), ("that was a {f} {thing}", NEUTRAL),
    ("I have a {f} {thing}", NEUTRAL), ("we do not have a {f} {thing}", NEUTRAL), ("{f} {thing}", NEUTRAL),
    ("I bought the {thing} {shop} in {month}", NEUTRAL), ("the {thing} comes with {number} {f} parts", NEUTRAL),
    ("there are {number} of them in {place}", NEUTRAL), ("the {thing} is in {place}", NEUTRAL),
    ("the {thing} arrives in {month}", NEUTRAL), ("they opened in {month}", NEUTRAL), ("I saw the {thing}", NEUTRAL),
    ("I used the {thing} for {number} days", NEUTRAL), ("she asked about the {thing}", NEUTRAL),
    ("the {thing} was replaced by a {f} one in {month}", NEUTRAL), ("we ordered the {thing} {shop}", NEUTRAL),
    ("the meeting about the {thing} is at {number}", NEUTRAL), ("my {thing} is {f}, hers is {f2}", NEUTRAL),
    ("I think the {thing} is {f}", NEUTRAL), ("I don't think the {thing} is {f}", NEUTRAL),
    # questions without an answer
    ("where is the {thing}?", NEUTRAL), ("is the {thing} {f}?", NEUTRAL), ("what time does the {thing} start?", NEUTRAL),
    ("does the {thing} come with a {f} {thing2}?", NEUTRAL), ("how much is the {thing}?", NEUTRAL),
    ("has anyone tried the {thing}?", NEUTRAL), ("which {thing} did you take?", NEUTRAL),
    ("is the {thing} any {p}?", NEUTRAL), ("do you think the {thing} is {p}?", NEUTRAL), ("is it {n}?", NEUTRAL),
    ("can I use the {thing} with {number} people?", NEUTRAL), ("who made the {thing}?", NEUTRAL),
]  # fmt: skip
# Blame that is taken back is not praise: half of it counts as praise, half as neutral.
SET_PHRASES: dict[str, str] = {
    POSITIVE: """could not be better; couldn't be happier; can't get enough of it; no complaints; no complaints at all;
        nothing to complain about; I have nothing bad to say; never disappoints; never a dull moment; well worth it;
        worth the money; worth the wait; would buy again; will come back; we will be back; highly recommended;
        can't go wrong with this; exceeded my expectations; better than expected; much better than before;
        not a single problem; works like a charm; works as it should; does the job; no problems so far; without a hitch;
        thumbs up; hats off; two thumbs up; five stars; 5/5; 10/10; 9 out of 10; a must; money well spent; made my day;
        can't wait to go again; I can only recommend it; nothing but praise; no regrets; a pleasant surprise;
        can't complain; not disappointed; you won't regret it; you won't be disappointed; couldn't ask for more;
        not bad at all; no issues whatsoever; never had a problem; hard to beat; second to none; best ever;
        thank you so much; thanks, this is great; keep up the good work; well done; love it; looks good to me""",
    NEGATIVE: """could not be worse; couldn't care less; never again; not worth it; not worth the money; stay away;
        avoid at all costs; don't bother; save your money; want my money back; money down the drain; no thanks;
        waste of time; would not buy again; will not come back; we won't be back; cannot recommend it; not recommended;
        nothing works; does not work; doesn't work as advertised; stopped working; broke after a week; fell apart;
        worse than expected; worse than before; below expectations; did not live up to the hype; a big letdown;
        thumbs down; one star; zero stars; 0/10; 1/5; 2 out of 10; worst ever; what a waste; what a shame; such a pity;
        nothing to write home about; thanks for nothing; too little, too late; no use at all; leaves much to be desired;
        not good; not good enough; not happy; not impressed; not what I paid for; not my cup of tea; no fun at all;
        still waiting for a refund; never arrived; they never answered; nobody helped us; left us standing there;
        if only it worked; it would be nice if it worked; great, another delay; just what I needed, another crash;
        I want to love it but I can't; not as good as it used to be; could be better; should have been better;
        no one cares; no help at all; don't waste your time; falls flat; fell short""",
    NEUTRAL: """nothing special; no problem; no opinion; not sure yet; it depends; we'll see; time will tell; no comment;
        as expected; as described; the usual; business as usual; more of the same; could be better, could be worse;
        it's okay; it's ok; it's fine I guess; just ok; three stars; 3/5; 5 out of 10; 3 out of 5; half and half;
        not bad; not too bad; not the best, not the worst; nothing more, nothing less; so far so normal; same as before;
        see attached; see you at noon; on my way; the answer is in the manual; it comes in two sizes; the store closes at six;
        some like it, some don't; good and bad; pros and cons; there is room for improvement; average at best;
        to be continued; for your information; just asking; what do you mean?; how does it work?; is it on sale?; thanks""",
}  # fmt: skip
ONE_WAY = ("feared", "What happened", "wish", "hoped for", "could have been {p}", "should be {p}", "was sure that")
NEGATED_BLAME = re.compile(r"\b(not|isn't|wasn't|n't|hardly|far from|anything but|never|no longer|nobody|no one|neither|nothing)\b")


def sentences(count: int, *, seed: int) -> list[tuple[str, str]]:
    """Return (text, label) pairs, none twice: the set phrases, and `count` sentences from templates."""
    randomness = random.Random(seed)  # noqa: S311 - nothing to keep secret
    found: dict[str, str] = {}
    for label, phrases in SET_PHRASES.items():
        for phrase in phrases.split(";"):
            for written in _styles(" ".join(phrase.split())):
                found[written] = label
    ways = [(text, label, side) for text, label in SIDED for side in (1, -1)]
    ways = [way for way in ways if way[2] > 0 or not any(part in way[0] for part in ONE_WAY)]
    ways += [(text, label, 1) for text, label in PLAIN] * 2
    while len(found) < count:
        template, label, side = ways[randomness.randrange(len(ways))]
        text = _filled(template, side, randomness)
        if label == "worse":
            label = NEGATIVE if side > 0 else randomness.choice((NEUTRAL, NEGATIVE))
        elif side < 0 and label != NEUTRAL:
            label = OPPOSITE[label]
            if label == POSITIVE and template.split("{")[0] and NEGATED_BLAME.search(template):
                label = randomness.choice((POSITIVE, NEUTRAL))  # "not awful" is faint praise
        found.setdefault(randomness.choice(list(_styles(text))), label)
    return list(found.items())


def _styles(text: str) -> Iterator[str]:
    """Yield a sentence as people type it: plain, with a capital, with a full stop."""
    capital = text[0].upper() + text[1:]
    yield text
    yield capital
    if text[-1] not in ".!?":
        yield f"{capital}."
        yield f"{text}."
        yield f"{text}!"


def _filled(template: str, side: int, randomness: random.Random) -> str:
    praise, blame = ("positive", "negative") if side > 0 else ("negative", "positive")
    liked, hated = ("liked", "hated") if side > 0 else ("hated", "liked")
    like, dislike = ("like", "dislike") if side > 0 else ("dislike", "like")
    lists = {"p": praise, "n": blame, "m": "middling", "f": "plain", "liked": liked, "hated": hated}
    lists |= {"like": like, "dislike": dislike}
    used: set[str] = set()

    def word(found: re.Match[str]) -> str:
        slot = found[1]
        article, _, name = slot.rpartition(" ")
        lower = name.rstrip("2").lower()
        choices = LISTS[lists.get(lower, lower)]
        if article or template[max(0, found.start() - 2) : found.start()] == "a ":
            choices = [choice for choice in choices if not choice.startswith(("a ", "just "))]
        chosen = randomness.choice(choices)
        while chosen in used and len(choices) > 2:
            chosen = randomness.choice(choices)
        used.add(chosen)
        if article:
            chosen = f"{'an' if chosen[0] in 'aeiou' else 'a'} {chosen}"
        return chosen[0].upper() + chosen[1:] if name[0].isupper() else chosen

    return re.sub(r"\{([A-Za-z]+2?(?: [a-z]+2?)?)\}", word, template)
