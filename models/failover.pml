/*
 * One direction of a link to another host whose carriers fail (src/fabric/remote, src/control/session.rs), checked by Spin
 * over every interleaving.
 *
 * The sender writes numbers into its mirror of the receiver's ring; a carrier copies them there and announces them. Any
 * carrier may fail at any moment, with any part of what is on its way lost, and the two ends may notice at different times.
 * The sender then begins with another one; the receiver says from where it goes on.
 *
 *   Safety: the receiver reads 0, 1, 2, ... once each, whatever still comes by an older carrier; no number is written over
 *   in the mirror before the receiver has it, nor in the ring before it is read.
 *   Liveness: while there is a carrier left, all of them arrive.
 */

#ifndef NUMBERS
#define NUMBERS 5
#endif
#define RING 2
#define CARRIERS 3
#define NOWHERE 255

mtype = { RESUME, WRITE, PRODUCED, FREED };

chan there[CARRIERS] = [3] of { mtype, byte, byte };
chan back[CARRIERS] = [3] of { mtype, byte, byte };

/* The sender. */
byte mirror[RING] = NOWHERE;
byte written, posted, peer_freed;
byte carrier = NOWHERE;         /* the one in use, or the last */
bool has_carrier, resumed;
byte begun;                     /* how many carriers there have been */

/* The receiver. */
byte ring[RING] = NOWHERE;
byte produced, released, told;
byte listens = NOWHERE;

/* Carriers that are cut: what is sent there goes nowhere. */
bool cut[CARRIERS];

active proctype Sender() {
  byte got, freed;
  do
  :: atomic { written < NUMBERS && written - peer_freed < RING ->
       assert(mirror[written % RING] == NOWHERE || mirror[written % RING] < peer_freed);
       mirror[written % RING] = written; written++ }
  /* Posted: the bytes, and behind them what announces them. */
  :: atomic { has_carrier && resumed && posted < written && posted - peer_freed < RING && len(there[carrier]) <= 1 ->
       if
       :: !cut[carrier] ->
          there[carrier]!WRITE(posted, mirror[posted % RING]);
          there[carrier]!PRODUCED(posted + 1, 0)
       :: cut[carrier]
       fi;
       posted++ }
  /* It notices that the carrier has failed, or only believes so. */
  :: atomic { has_carrier && begun < CARRIERS -> has_carrier = false; resumed = false }
  /* Begins with another one. The one before is closed: nothing more is read from the mirror for it. */
  :: atomic { !has_carrier && begun < CARRIERS ->
       carrier = begun; begun++; has_carrier = true; resumed = false;
       there[carrier]!RESUME(0, 0) }
  :: atomic { has_carrier && back[carrier]?[RESUME, got, freed] ->
       back[carrier]?RESUME(got, freed);
       if
       :: resumed -> skip
       /* Said long ago: what it asks for has been given back since. (Nobody would have it any more.) */
       :: !resumed && (got < peer_freed || freed < peer_freed) -> has_carrier = false
       :: else ->
          assert(got <= written && freed <= got);
          peer_freed = freed; posted = got; resumed = true
       fi }
  :: atomic { has_carrier && back[carrier]?[FREED, freed, _] ->
       back[carrier]?FREED(freed, _);
       if
       :: freed > peer_freed -> assert(freed <= posted); peer_freed = freed
       :: else
       fi }
  :: released == NUMBERS -> break
  od
}

#define NEW(c) ((listens == NOWHERE || c > listens) && there[c]?[RESUME, _, _])

active proctype Receiver() {
  byte at, value, from;
  do
  /* The device writes, as long as the queue pair stands: whatever the receiver knows or wants. */
  :: atomic { listens != NOWHERE && there[listens]?[WRITE, at, value] ->
       there[listens]?WRITE(at, value);
       ring[at % RING] = value }
  :: atomic { listens != NOWHERE && there[listens]?[PRODUCED, at, _] ->
       there[listens]?PRODUCED(at, _);
       assert(at <= released + RING);
       produced = at }
  /* The sender speaks first on a new carrier. The one before is closed, and then it is said where to go on. */
  :: atomic { NEW(0) || NEW(1) || NEW(2) ->
       if
       :: NEW(0) -> from = 0
       :: NEW(1) -> from = 1
       :: NEW(2) -> from = 2
       fi;
       there[from]?RESUME(_, _);
       listens = from; told = released;
       if
       :: !cut[from] -> back[from]!RESUME(produced, released)
       :: cut[from]
       fi }
  /* The application reads, and the ring's bytes are given back, sooner or later told. */
  :: atomic { released < produced ->
       assert(ring[released % RING] == released);
       released++ }
  :: atomic { listens != NOWHERE && told < released && nfull(back[listens]) ->
       told = released;
       if
       :: !cut[listens] -> back[listens]!FREED(released, 0)
       :: cut[listens]
       fi }
  :: released == NUMBERS -> break
  od
}

/* Cables and devices: every carrier but the last fails at some moment, and takes with it some of the last that was sent. */
active proctype World() {
  byte number, loses;
  do
  :: atomic { number < CARRIERS - 1 && number < begun ->
       cut[number] = true;
       loses = 0;
       do
       :: loses < len(there[number]) -> loses++
       :: break
       od;
       /* Of a queue the last ones: the others have gone before. */
       byte keep = len(there[number]) - loses;
       byte count = 0;
       byte all = len(there[number]);
       mtype kind; byte a, b;
       do
       :: count < all ->
          there[number]?kind, a, b;
          if
          :: count < keep -> there[number]!kind, a, b
          :: else
          fi;
          count++
       :: count == all -> break
       od;
       number++ }
  :: number == CARRIERS - 1 -> break
  :: released == NUMBERS -> break
  od
}
