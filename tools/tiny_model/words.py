"""The word lists and sentence templates from which policies and tickets are composed."""


def _list(text: str) -> list[str]:
    """Split at bars if there are any, else at spaces."""
    return text.split("|") if "|" in text else text.split()


FIRST_NAMES = _list(
    "Mira Jonas Edda Tomas Lena Oskar Petra Milan Selma Ruben Ingrid Pavel Nora Henrik Alma "
    "Viktor Greta Lukas Tilda Marek Frida Anton Leonie Casper Yara Emil Sanna Dario Klara Felix "
    "Ronja Hugo Amina Bruno Celine Dimitri Elif Farid Gemma Hanna Ivo Jasmin Kofi Livia Mateo "
    "Nadia Omar Paula Quentin Rosa Stefan Tara Ugo Vera Wanda Xenia Yusuf Zora Aiko Bela Chiara "
    "Devin Esme Finn"
)

LAST_STARTS = _list(
    "Hol Lin San Mar Vel Gra Bor Tor Ek Nor Dal Fal Kes Lor Mon Ros Sten Wal Bran Cor Den Fer Gar "
    "Hel Ib Jor Kal Lan Mel Nev Or Pel Rad Sol Tam Ul Ver Win Yar Zel"
)
LAST_ENDS = _list(
    "mark berg vik dahl ström ova ini escu sen stad feld ker wood ley ridge man to bach hoff mont "
    "sky land er ton"
)

CITY_STARTS = _list("Lund Ask Mor Vin Kell Ost Bre Hal Tre Rav Sil Ger Nord Fos Pad Ell Gran Tul")
CITY_ENDS = _list("by haven ford burg dorf vale minster stead wick heim port mere")

PRODUCT_STARTS = _list(
    "Trail Arc Nimbus Cedar Delta Ember Fjord Glide Harbor Iris Juno Kite Lumen Maple Nova Orbit "
    "Pine Quartz River Summit Terra Umbra Vista Willow"
)
PRODUCT_ENDS = _list(
    "Stove Lamp Tent Kettle Chair Jacket Router Speaker Bottle Backpack Desk Blender Camera "
    "Scooter Monitor Watch Helmet Printer Mattress Heater"
)

COMPANY_STARTS = _list("Nor Ald Bex Cal Dor Eri Fen Hav Kir Lum Mos Ost Pri Ral Sev Tov Ul Wes")
COMPANY_MIDDLES = _list("vik mont dale ora ium eta wen stad ix una")
COMPANY_ENDS = _list("Outdoor Home Electric Travel Living Supply Market Works")

DESKS = _list(
    "Returns Europe|Online Orders|Night Shift|Key Accounts|Spring Season|Retail Partners|"
    "Premium Members|First Line|Regional Hub|Marketplace|Phone Desk|Weekend Team"
)

QUEUE_LETTERS = _list(
    "FIN OPS LOG CRM DEV HUB NET PAY QUA REP SEC TEC VIP WEB ACC BIL CAR DOC EXP FRA GEN HOT INT "
    "JET KEY LAB MED NEW OUT POL RED SUP TAX URB VAN WAY XLR YEL ZEN AIR BOX CAP DUO ECO FOX GUM"
)

PRIORITIES = ("low", "normal", "high", "urgent")

# Every topic is a tag and the ways in which customers describe it; {p} is the product.
TOPICS: dict[str, tuple[str, ...]] = {
    "refund": (
        "I want my money back for the {p}.",
        "please refund the {p} I sent back.",
        "the {p} was returned but I still wait for my refund.",
        "when will I be paid back for the {p}?",
        "you have not reimbursed me for the {p} yet.",
        "kindly return the full amount I paid for the {p}.",
        "the money for the returned {p} never reached my account.",
    ),
    "damage": (
        "the {p} arrived broken.",
        "my {p} has a big crack on one side.",
        "the box was crushed and the {p} inside is in pieces.",
        "there are deep scratches all over the new {p}.",
        "I unpacked the {p} and found it shattered.",
        "the {p} came out of the parcel bent and dented.",
        "half of the {p} was smashed in transport.",
    ),
    "delay": (
        "the {p} still has not arrived.",
        "where is my {p}?",
        "the parcel with the {p} is two weeks late.",
        "tracking for the {p} has not moved for days.",
        "I keep waiting for the {p} to be delivered.",
        "the {p} should have been here on Monday.",
        "your driver never came with the {p}.",
    ),
    "invoice": (
        "I need an invoice for the {p}.",
        "the bill for the {p} shows the wrong tax number.",
        "please send a receipt for the {p} to our accounting.",
        "my bookkeeper asks for the paper bill of the {p}.",
        "the invoice of the {p} is missing in my mailbox.",
        "could you issue a tax receipt for the {p}?",
        "the billing document for the {p} has a typo.",
    ),
    "login": (
        "I cannot sign in to register the {p}.",
        "my password is rejected when I open the {p} page.",
        "the account for my {p} is locked.",
        "the login code for the {p} app never comes.",
        "I forgot the password of my {p} account.",
        "signing in to manage the {p} gives an error.",
        "the reset link for my {p} profile has expired.",
    ),
    "cancel": (
        "please cancel the {p} before it ships.",
        "I changed my mind and do not want the {p} any more.",
        "stop the order of the {p}.",
        "I ordered the {p} by mistake, call it off.",
        "can I still withdraw from buying the {p}?",
        "do not send the {p}, I no longer need it.",
        "kindly annul my purchase of the {p}.",
    ),
    "exchange": (
        "I would like to swap the {p} for another color.",
        "can I trade the {p} for the blue one?",
        "please exchange the {p} for the newer model.",
        "I got the {p} in green and want it in black instead.",
        "could you replace the {p} by a different version?",
        "I prefer to switch my {p} to the white edition.",
        "swapping the {p} for its sister model would be great.",
    ),
    "warranty": (
        "the {p} stopped working after a year, is it under warranty?",
        "I want to use the guarantee for my {p}.",
        "does the warranty cover a dead battery in the {p}?",
        "the {p} failed and the guarantee is still valid.",
        "how do I make a warranty claim for the {p}?",
        "my {p} does not turn on since last month, please repair it under guarantee.",
        "is the motor of the {p} part of the two year guarantee?",
    ),
    "address": (
        "please deliver the {p} to my new address.",
        "I moved, send the {p} to another street.",
        "the house number on the {p} label is wrong.",
        "can the {p} go to my office instead of my home?",
        "I typed the wrong postcode for the {p}.",
        "change the delivery address of the {p}.",
        "my new flat should be the destination of the {p}.",
    ),
    "voucher": (
        "my discount code does not work for the {p}.",
        "the coupon was not applied to the {p}.",
        "I have a gift card and want to use it for the {p}.",
        "the voucher for the {p} is shown as invalid.",
        "the shop ignores my promo code for the {p}.",
        "where do I enter the coupon when I buy the {p}?",
        "the ten percent discount on the {p} is missing.",
    ),
    "advice": (
        "which size of the {p} fits a tall person?",
        "is the {p} suitable for children?",
        "what is the difference between the {p} and the older one?",
        "would you recommend the {p} for daily use?",
        "can the {p} be used in the rain?",
        "how heavy is the {p}, and how long does it last?",
        "I am not sure if the {p} is right for beginners.",
    ),
    "privacy": (
        "delete all data you stored about me and the {p}.",
        "stop sending me mails about the {p}.",
        "who can see the personal data from my {p}?",
        "please remove me from the {p} newsletter.",
        "I object to sharing my {p} usage data.",
        "send me a copy of the data my {p} has collected.",
        "unsubscribe me from all {p} advertising.",
    ),
}

GREETINGS = (
    "Hello,", "Hi,", "Good morning,", "Dear team,", "Hey there,", "Hello support,", "Good evening,",
    "To whom it may concern,",
)  # fmt: skip
ORDER_CLAUSES = (
    "My order number is {o}.", "Order {o}.", "This is about order {o}.", "The reference is {o}.",
    "It belongs to order {o}.", "You find it under {o}.", "I bought it with order {o}.",
)  # fmt: skip
CITY_CLAUSES = (
    "I live in {c}.", "I am writing from {c}.", "Ship to {c}.", "My home is in {c}.",
    "I am in {c} these days.",
)  # fmt: skip
FILLERS = (
    "I paid {n} euro.", "I have waited {n} days.", "Please answer soon.",
    "I wrote {n} times before.", "I like your shop.", "This is annoying.",
    "My neighbour has the same question.", "You can call me after {n}.", "Sorry for the trouble.",
)  # fmt: skip
CLOSINGS = (
    "Thanks,", "Regards,", "Best wishes,", "Kind regards,", "Thank you,", "Yours,", "Cheers,",
)  # fmt: skip
INTRODUCTIONS = ("this is {n}.", "my name is {n}.", "I am {n}.", "{n} here.")

SHARED_PREAMBLES = (
    "You sort support tickets. Read the policy, then answer each ticket with one line of compact "
    "JSON and nothing else. Copy names, numbers and products exactly as the customer wrote them. "
    "Use only the keys that the policy asks for, in its order.",
    "You are the assistant of a support desk. Answer the ticket with a single line of JSON. Follow "
    "the policy and keep the order of its keys.",
    "Read the ticket and answer in JSON, as the policy says.",
)
COMPANY_LINES = (
    "{c} was founded in {y} and ships to {n} countries.",
    "{c} sells through its own shop and {n} partners.",
    "The desk of {c} is open from {n} to {m} on working days.",
    "Customers of {c} may return goods within {n} days.",
    "{c} answers every ticket within {n} hours.",
    "The staff of {c} speaks {n} languages.",
    "Parcels of {c} leave the warehouse before {m} every day.",
    "{c} keeps tickets for {n} months and then deletes them.",
)
NOTES = (
    "Never promise a date of delivery.",
    "Do not answer the customer, a person will do so.",
    "A ticket belongs to exactly one queue.",
    "When a customer is angry, the same queue applies.",
    "Do not translate the name of a product.",
    "Prices and numbers of days are not order numbers.",
    "An order number has one letter and five digits.",
    "Tickets from partners are treated like all others.",
    "Write the name without a title.",
    "Do not add a comment or an explanation.",
    "The list of queues is valid until the end of month {n}.",
    "Queues are read by {n} people in turn.",
    "Team leads review {n} tickets a day.",
    "If the customer wrote before, sort the ticket again.",
    "The sender is a customer, not a member of staff.",
    "Old queue names from last year must not be used.",
)
