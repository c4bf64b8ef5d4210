"""The second domain: ships' logs. Other words, other form (one line a sentence, in a log's clipped present tense).

The roles are the stories' own, so that one generator, one oracle and one set of tasks serve both: the hero is a ship,
its kind a kind of ship, the object its cargo, the colour what the cargo is packed in, the helper another ship, the
places are ports; weather is the wind, food a number of days. A happy ending: the cargo arrives. A table's lines read as
in `rich`.
"""

JOINER = "\n"
NAMES = (
    "Petrel Albatross Comet Aurora Neptune Triton Meridian Swallow Halcyon Tempest Venture Fortune "
    "Pelican Dolphin Orion Polaris Corsair Minerva Juno Thetis"
).split()
KINDS = "brig schooner barque sloop ketch frigate trawler cutter steamer ferry".split()
TRAITS = "sturdy swift rusty heavy nimble leaky ancient graceful trusty modern".split()
COLOURS = "barrels sacks crates chests casks bales tubs".split()
PLACES = "Arvik Bremby Calder Dunmore Eastholm Farrow Gullhaven Harwick Inverlee Kelso Lorne Marwick".split()
# b: burns; w: is ruined by water
OBJECTS = {
    "salt": "w", "tea": "bw", "rice": "w", "pepper": "bw", "wheat": "bw", "barley": "bw", "coffee": "bw", "sugar": "w",
    "flour": "bw", "cloves": "bw", "wool": "bw", "tin": "",
}  # fmt: skip
PLOT_TAGS = {"leak": "w", "fire": "b", "calm": "", "reef": "", "pirates": ""}
PLOT_WEIGHTS = {"leak": 2, "fire": 2, "calm": 1, "reef": 2, "pirates": 1}
WEATHERS = "light fresh strong fair southerly westerly".split()
FOODS = "two three four five six seven nine ten".split()
SKIP = {"reaction": 0.6, "request": 0.5, "reply": 0.5, "attempt": 0.7, "moral": 0.6}
NEEDS = {"reply": "request"}

TABLES = {
    "introduction": """
   4 Log of the {hero}, a {trait} {kind}.
   2 Vessel: {hero}, {kind}, {trait} as ever.
   1 Here begins the log of the {trait} {kind} {hero}.
""",
    "possession": """
   4 Cargo of the {hero}: {object} in {colour}.
   3 Loaded aboard the {hero}: {colour} of {object}.
   2 The {hero} carries {object}, stowed in {colour}.
""",
    "outing": """
   4 The {hero} sails for {place} with the {object}.
   3 Bound for {place}, {object} below deck, wind {weather}.
   2 Course of the {hero} set to {place}, {food} days at sea.
""",
    "problem": """
[leak]
   3 Water rises in the hold, the {object} is in danger.
   2 A plank gives way, the {hero} takes in water over the {object}.
[fire]
   3 Smoke from below, fire near the {object}.
   2 A lamp falls on the {colour} of {object}, fire aboard the {hero}.
[calm]
   3 No wind for {food} days, the {hero} drifts with the {object}.
   2 Sails hang slack, the {object} will be late.
[reef]
   3 The {hero} strikes a reef, the {object} shifts.
   2 Hard aground on a sandbank, {object} and all.
[pirates]
   3 Pirates in sight, they want the {object}.
   2 A raider fires upon the {hero} and claims the {object}.
""",
    "reaction": """
   3 All hands on deck of the {hero}.
   2 The captain orders calm and counts the {colour}.
   2 Alarm bell rung, the {trait} {kind} slows down.
""",
    "meeting": """
   4 The {helper_kind} {helper} comes alongside.
   3 Sighted: the {helper}, a {helper_kind}.
   2 Off {place2}, the {hero} hails the {helper_kind} {helper}.
   2 From {place2} comes the {helper}, a {helper_kind}, at full speed.
""",
    "request": """
   3 Flags hoisted: {hero} asks {helper} for aid.
   2 Signal sent to the {helper}: save our {object}.
   2 Captain calls over: take our {colour} of {object}.
""",
    "reply": """
   3 Answer of the {helper}: aye.
   2 The {helper} signals back: stand by, {hero}.
""",
    "attempt": """
   3 Lines passed between {helper} and {hero}.
   2 Crew of the {helper} boards with ropes from {place2}.
   1 Work goes on for {food} hours.
""",
    "resolution": """
[leak / happy]
   3 Pumps of the {helper} clear the hold, the {object} stays dry.
   2 Divers of the {helper} close the leak in time for the {object}.
[leak / sad]
   3 Pumps of the {helper} fail, the {object} is soaked.
   2 The {helper} arrives too late, the {object} swims away.
[fire / happy]
   3 Hoses of the {helper} put the fire out, the {object} is unhurt.
   2 The {helper} floods the deck, not one sack of the {object} burns.
[fire / sad]
   3 Hoses of the {helper} run dry, the {object} burns.
   2 The {helper} saves the crew, the {object} turns to ash.
[calm / happy]
   3 The {helper} tows the {hero} and the {object} into the wind.
   2 Taken in tow by the {helper}, {object} still good.
[calm / sad]
   3 The {helper} cannot tow, the {object} spoils.
   2 Towline of the {helper} parts, the {object} is thrown overboard.
[reef / happy]
   3 The {helper} pulls the {hero} free, no {object} lost.
   2 Off again at high tide with the {helper}, {object} secured.
[reef / sad]
   3 The {helper} pulls in vain, the {object} goes down.
   2 Hull broken, the {helper} takes the crew but not the {object}.
[pirates / happy]
   3 The {helper} drives them off, the {object} is ours.
   2 Two shots from the {helper}, pirates gone, {object} safe.
[pirates / sad]
   3 The {helper} flees, pirates take the {object}.
   2 Outgunned, even the {helper}, the {object} is handed over.
""",
    "ending": """
[/ happy]
   4 The {hero} moors at {place}, {object} delivered.
   3 Arrived at {place}: {colour} of {object}, complete.
   2 Thanks to the {helper}, the {hero} lands all {object}.
[/ sad]
   4 The {hero} limps into {place} without {object}.
   3 Arrived at {place}: no {object}, owner informed.
   2 Despite the {helper}, the {hero} lands nothing, {object} written off.
""",
    "moral": """
[/ happy]
   3 Log of the {hero} closed in good order.
   2 Extra rations for the crew of the {helper}.
[/ sad]
   3 Log of the {hero} closed with regret.
   2 The {helper} is not to blame.
""",
}
