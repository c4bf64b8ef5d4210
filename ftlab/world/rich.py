"""The words and the templates of the story world: "rich" has all of them, "small" only those marked `*`.

A line of a table is `[*] weight text`; a line `[plots / ending]` says for which plots and which ending the lines
below it may be told (empty: for all). Each line is one sentence. `{role}` stands for a word of that role's class.
A word that plays a role never occurs in the text of a template, so every sentence can be read in one way only.
"""

JOINER = " "  # between sentences
NAMES = (
    "Mira Otto Nora Finn Lena Hugo Tilda Emil Ada Bruno Clara Dario "  # the twelve of the small world
    "Elsa Felix Greta Henri Ines Jonas Kira Luca Maya Nils Olga Pablo Rosa Sami Tara Ugo Vera Wanda Yara Zeno "
    "Alma Boris Celia Dina Edgar Flora Gina Hilda Igor Julia Karl Lotte Marco Nelly Oscar Petra Rufus Selma "
    "Timo Ulla Viktor Willa Yusuf Zora Arlo Benno Cora Lars"
).split()
KINDS = (
    "fox bear rabbit owl mouse hedgehog badger otter "
    "squirrel frog duck goose hen cat dog pony lamb goat beaver mole turtle sparrow deer piglet"
).split()
TRAITS = (
    "brave shy curious clever gentle cheerful "
    "proud quiet patient stubborn sleepy careful clumsy funny grumpy eager honest polite noisy bold"
).split()
COLOURS = "red blue green yellow purple orange white black brown pink silver golden".split()
PLACES = (
    "forest market river meadow garden "
    "mill orchard beach castle village tower farm barn cave pond school library bakery fountain lighthouse"
).split()
# An object with the plots (besides those for every object) that it is fit for: b = it can break, l = the wind lifts it,
# f = it floats away.
OBJECTS = {
    "kite": "bl", "hat": "lf", "scarf": "lf", "flag": "l", "ribbon": "lf", "balloon": "lf", "cap": "lf", "ball": "lf",
    "drum": "bf", "lantern": "b", "flute": "bf", "boat": "bf", "bell": "", "basket": "bf", "umbrella": "blf",
    "clock": "b", "cup": "bf", "box": "bf", "wagon": "b", "sled": "bf", "violin": "b", "feather": "lf", "map": "lf",
    "letter": "lf", "puppet": "bf", "mirror": "b", "whistle": "", "blanket": "lf",
}  # fmt: skip
PLOT_TAGS = {"lost": "", "stuck": "l", "broken": "b", "stolen": "", "sunk": "f", "storm": "", "contest": ""}
PLOT_WEIGHTS = {"lost": 3, "stuck": 3, "broken": 2, "stolen": 2, "sunk": 2, "storm": 2, "contest": 2}
WEATHERS = "sunny windy misty frosty cloudy warm".split()
FOODS = "bread cheese honey cake soup berries nuts pie".split()

SMALL_COUNTS = {"name": 12, "kind": 8, "object": 8, "colour": 6, "place": 5, "trait": 6, "weather": 0, "food": 0}
SMALL_PLOTS = ("lost", "stuck")

# Share of stories that leave a slot out; a slot that is not named here is never left out.
SKIP = {"reaction": 0.75, "request": 0.5, "reply": 0.6, "attempt": 0.75, "moral": 0.8}
# A slot that can only be told after another one was.
NEEDS = {"reply": "request"}

TABLES = {
    "introduction": """
*  5 {hero} was a {trait} {kind}.
   3 There once was a {trait} {kind} named {hero}.
   1 Once upon a time there lived a {trait} {kind} called {hero}.
   1 In a small house lived {hero}, a {trait} {kind}.
   2 Everyone knew {hero} the {trait} {kind}.
   1 This is the story of {hero}, a {trait} {kind}.
   1 Far away, behind seven hills, lived a {trait} {kind} named {hero}.
""",
    "possession": """
*  5 {hero} had a {colour} {object}.
*  3 {hero} loved a {colour} {object}.
   1 For a birthday, {hero} got a {colour} {object}.
   1 The best thing {hero} owned was a {colour} {object}.
   2 Grandmother gave {hero} a {colour} {object}.
   1 {hero} never went anywhere without a {colour} {object}.
   1 High on a shelf, {hero} kept a {colour} {object}.
""",
    "outing": """
*  5 One day {hero} took the {object} to the {place}.
*  4 {hero} carried the {object} to the {place}.
   2 On a {weather} morning, {hero} walked to the {place} with the {object}.
   2 One {weather} afternoon, {hero} took the {object} to the {place}.
   1 {hero} packed the {object} and some {food} and set out for the {place}.
   1 After breakfast {hero} went to the {place} to show everyone the {object}.
   1 It was a {weather} day, and {hero} brought the {object} to the {place}.
   1 {hero} sang a song and carried the {object} along the path to the {place}.
""",
    "problem": """
[lost]
*  3 But the {object} got lost.
*  3 Then the {object} was gone.
   2 Soon {hero} noticed that the {object} was gone.
   2 When {hero} looked into the bag, the {object} was missing.
   1 Somewhere in the tall grass, the {colour} {object} got lost.
[stuck]
*  3 But the {object} got stuck in a tree.
*  3 Then the {object} hung in a tree.
   2 Suddenly the wind blew the {colour} {object} into a tree.
   2 But a gust blew the {object} onto a steep roof.
[broken]
   3 But {hero} tripped over a stone, and the {object} broke in two.
   2 Then {hero} stumbled, and the {colour} {object} broke.
   2 Suddenly there was a loud crack, and the {object} was broken.
[stolen]
   3 But a sly magpie snatched the {object} and flew away.
   2 While {hero} took a nap, a thief stole the {colour} {object}.
   2 Then a naughty monkey grabbed the {object} and ran off.
[sunk]
   3 On the way, {hero} dropped the {object} into the water.
   2 But the {object} slipped into a deep well.
   2 Then the {colour} {object} rolled into a stream and floated away.
[storm]
   3 But a storm broke out, and {hero} lost the path with the {object}.
   2 Then thick fog came up, and {hero} held the {object} tight.
   2 Suddenly it thundered, and {hero} hid under a rock with the {colour} {object}.
[contest]
   3 There was a contest for the finest {object} that day.
   2 There, a judge was looking for the most beautiful {object} of all.
   2 {hero} wanted to win the great contest with the {colour} {object}.
""",
    "reaction": """
   3 {hero} did not know what to do.
   2 "Oh no!" cried {hero}.
   2 {hero} sat down on a stone and sighed.
   2 {hero} worried about the {colour} {object}.
   1 The {trait} {kind} began to shiver.
[lost stuck broken stolen sunk]
   2 "My poor {object}!" cried {hero}.
   2 Big tears ran down the face of {hero}.
   1 {hero} felt sorry for the {object}.
[storm]
   2 "Stay with me, little {object}," whispered {hero}.
[contest]
   2 "My {object} is much too plain," thought {hero}.
""",
    "meeting": """
*  4 {hero} met {helper} the {helper_kind}.
*  3 Then {helper} the {helper_kind} came by.
   3 Near the {place2}, {hero} met a {helper_kind} called {helper}.
   2 Just then a {helper_kind} named {helper} came along from the {place2}.
   2 {helper} the {helper_kind} saw {hero} from the {place2} and hurried over.
   2 {helper}, a friendly {helper_kind}, walked past on the way to the {place2}.
   2 Behind the {place2}, {hero} found {helper} the {helper_kind}.
""",
    "request": """
   2 "Please help me," said {hero}.
   2 {hero} asked {helper} for help.
   2 "Can you help me with my {colour} {object}?" asked {hero}.
   2 "I need your help, {helper}," said {hero}.
[lost stolen]
   3 "Have you seen my {colour} {object}?" asked {hero}.
   2 {hero} asked {helper}, "Where is my {object}?"
[stuck sunk]
   3 "Can you reach my {colour} {object}?" asked {hero}.
   2 {hero} asked {helper}, "How can I get my {object} back?"
[broken]
   3 "Can you mend my {colour} {object}?" asked {hero}.
   2 {hero} showed {helper} both pieces of the {object}.
[storm]
   3 "Which way is home?" asked {hero}.
   2 {hero} asked {helper}, "Will you lead me and my {object} home?"
[contest]
   3 "How can my {colour} {object} win?" asked {hero}.
   2 {hero} asked {helper}, "Is my {object} good enough?"
""",
    "reply": """
   3 "Of course," said {helper}.
   2 "Do not worry, {hero}," said {helper}.
   2 {helper} nodded and smiled.
   2 "We can do it together," said {helper}.
   1 "That will cost you some {food}," joked {helper}.
   2 "I have an idea, {hero}," answered {helper}.
   1 "I like a {trait} {kind}," laughed {helper}.
""",
    "attempt": """
   2 {helper} and {hero} shared some {food} and made a plan.
[lost]
   3 They looked behind the {place2} and under every bush.
   2 {helper} and {hero} searched the whole {place}.
[stuck]
   3 {helper} fetched a long ladder from the {place2}.
   2 {hero} stood on the back of {helper} and stretched.
[broken]
   3 {helper} brought glue and string from the {place2}.
   2 {helper} looked at the {colour} {object} from all sides.
[stolen]
   3 They followed the tracks to the {place2}.
   2 {helper} and {hero} asked everyone in the {place}.
[sunk]
   3 {helper} took a long stick and leaned over the water.
   2 {helper} fetched a net from the {place2}.
[storm]
   3 They waited near the {place2} until the rain grew weaker.
   2 {helper} lit a fire for {hero}.
[contest]
   3 {helper} and {hero} polished the {object} near the {place2}.
   2 {helper} tied a bow around the {colour} {object}.
""",
    "resolution": """
[lost / happy]
*  3 {helper} found the {colour} {object} under a bush.
*  2 {helper} looked around and saw the {colour} {object}.
   2 After a long search, {helper} found the {object} behind the {place2}.
   2 At last {helper} and {hero} spotted the {object} in the {place}.
[lost / sad]
*  3 {helper} searched, but the {colour} {object} stayed lost.
*  2 {helper} could not find the {colour} {object}.
   2 They searched until night, but {hero} never found the {object}.
   2 {helper} found only an old shoe, and the {colour} {object} was gone for good.
[stuck / happy]
*  3 {helper} climbed up and brought the {colour} {object} down.
*  2 {helper} shook hard until the {colour} {object} fell down.
   2 With one big jump, {helper} caught the {object}.
   2 {helper} lifted {hero} up, and together they freed the {object}.
[stuck / sad]
*  3 {helper} pulled hard, but the {colour} {object} tore.
*  2 {helper} could not reach the {colour} {object}.
   2 {helper} tried all day, but the {object} was too high up.
   2 A branch snapped, and the wind blew the {colour} {object} over the {place2}.
[broken / happy]
   3 {helper} mended the {colour} {object} with a drop of glue.
   2 Soon the {object} was as good as new, thanks to {helper}.
   2 {helper} worked all day, and at last the {object} was whole again.
[broken / sad]
   3 {helper} tried, but nobody could mend the {colour} {object}.
   2 One piece was missing, so {helper} could not repair the {object}.
   2 {helper} put it together, but the {object} broke again.
[stolen / happy]
   3 {helper} caught the thief and gave the {colour} {object} back.
   2 {helper} found the thief near the {place2} and brought back the {object}.
   2 The thief said sorry to {helper} and returned the {object}.
[stolen / sad]
   3 {helper} ran fast, but the thief got away with the {colour} {object}.
   2 The thief hid well, and {helper} never saw the {object} again.
   2 {helper} found the thief, but the {object} had already been sold at the {place2}.
[sunk / happy]
   3 {helper} dived down and came up with the {colour} {object}.
   2 {helper} fished the wet {object} out of the water.
   2 With a hook, {helper} pulled the {object} out.
[sunk / sad]
   3 {helper} dived down, but the {colour} {object} was too deep.
   2 The water carried the {object} away before {helper} could reach it.
   2 {helper} fished all day, but the {object} never came up.
[storm / happy]
   3 {helper} knew the way, and the {colour} {object} stayed dry.
   2 {helper} led {hero} and the {object} safely through the night.
   2 {helper} held a light, and {hero} carried the {object} past the {place2}.
[storm / sad]
   3 {helper} knew the way, but the rain ruined the {colour} {object}.
   2 {helper} led {hero} out, but the {object} was lost in the mud.
   2 A flash of lightning hit the {object}, and even {helper} was afraid.
[contest / happy]
   3 With the help of {helper}, the {colour} {object} won first prize.
   2 {helper} cheered loudly, and the judge chose the {object}.
   2 The judge gave {hero} and {helper} a medal for the {object}.
[contest / sad]
   3 {helper} clapped, but the {colour} {object} came last.
   2 The judge liked another one, and {helper} put the {object} away.
   2 {helper} dropped the {object} in front of the judge, and they lost.
""",
    "ending": """
[/ happy]
*  4 {hero} thanked {helper} and took the {object} home.
*  3 {hero} laughed and hugged {helper}.
   2 {hero} and {helper} celebrated with {food} until midnight.
   2 "Thank you, {helper}," said {hero} with a big smile.
   2 That night {hero} slept well with the {object} beside the bed.
   2 {hero} gave {helper} some {food} and was happy.
   1 The {trait} {kind} laughed, and {hero} and {helper} danced home.
[lost stuck stolen sunk / sad]
   3 {hero} thanked {helper} and went home without the {object}.
[broken storm contest / sad]
   3 {hero} thanked {helper}, but wept for the {object}.
   3 {hero} never wanted to see the {object} again.
[/ sad]
*  4 {hero} wept for the {object}.
*  3 {hero} wept and hugged {helper}.
   2 {hero} was sad and went home alone.
   2 That night {hero} dreamed of the {object} and wept.
   2 {helper} hugged {hero}, but {hero} still cried.
   2 Not even {food} from {helper} could comfort {hero}.
   1 The {trait} {kind} wept, and {hero} went to bed without supper.
""",
    "moral": """
[/ happy]
   3 From then on, {hero} and {helper} were best friends.
   2 A good friend is worth more than gold.
   2 {hero} never forgot the {helper_kind} and the {object}.
   2 Soon everyone in the {place} knew about the {colour} {object}.
   1 And they all lived happily ever after.
[/ sad]
   3 {hero} never went to the {place} again.
   2 Some days are just like that.
   2 But {helper} the {helper_kind} stayed a good friend.
   2 Even years later, {hero} missed the {colour} {object}.
   1 It was the saddest day in the life of {hero}.
""",
}
