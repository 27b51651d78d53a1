/*
 * Hand-back of one connection (src/socket/hand_back.rs, src/conn/mod.rs), checked by Spin over every interleaving.
 *
 * Two ends send SENDS numbers each, then end their stream. At any time either end, or both, begins to hand back. What an
 * end has received and not read goes back to the peer, which sends it again over the kernel's connection.
 *
 *   Safety: each end reads 0, 1, 2, ... without a gap, a double or a swap, and the end of the stream after all of them.
 *   Liveness: nobody waits for ever. (Everything that is sent is finite, so each run ends; Spin calls it an error if one
 *   ends elsewhere than where both streams were read whole.)
 *
 * With -DDEATH one process may die at any moment: the other one then reads a prefix, which has all that had come to it before
 * (unless that waits with the dead process for room in the kernel's connection).
 */

#ifndef SENDS
#define SENDS 3
#endif
#define ROOM 6          /* records that a link holds, and numbers that the kernel does */
#define END 99          /* the end of a stream, in the kernel's connection */

mtype = { DATA, FIN, RECALL, HAND_BACK, RETURNED, RETURNED_ALL, RESENT };

typedef End {
  byte sent;            /* by the application: the next number */
  bool shut;            /* shutdown(SHUT_WR) by the application */
  byte expects;         /* of the application's reads: the next number */
  bool at_end;          /* it has read the end of the stream */
  bool tx_left, rx_left, recalls, awaits_return, resent, rx_fin;
  bool is_plain;        /* it has left the link */
  bool told_end;        /* the kernel's connection has this end's FIN */
  bool resends;         /* of what came back there is still some to be sent again */
  byte given_back;      /* how many numbers it gave back that have not come again, if the peer dies */
  byte heard;           /* numbers that the kernel's connection has ever brought */
  byte all;             /* what that will be when all has come again */
  byte reads_here;      /* numbers that are read from what was given back, before the kernel's */
  bool lacks_room;      /* the kernel had no room for all that came back: what waits dies with the process */
  byte came;            /* numbers before this have come by the link */
  bool dead;
};

End ends[2];
chan link0 = [ROOM] of { mtype, byte };     /* to end 0 */
chan link1 = [ROOM] of { mtype, byte };
chan kernel0 = [ROOM] of { byte };          /* to end 0 */
chan kernel1 = [ROOM] of { byte };
chan unread0 = [ROOM] of { byte };          /* what came by the link and nobody has read */
chan unread1 = [ROOM] of { byte };
chan returned0 = [ROOM] of { byte };        /* of this end's own stream, to be sent again */
chan returned1 = [ROOM] of { byte };

#define LEFT(e) (e.tx_left && e.rx_left && !e.awaits_return && (e.resent || !e.recalls))

#define AWAITS_RESENT(e) (!e.is_plain && e.tx_left && e.rx_left && e.recalls && !e.awaits_return && !e.resent)

/* The application has read `number`. */
inline read(e, number) {
  if
  :: number == END ->
     assert(e.expects == SENDS || ends[1 - me].dead && (e.expects >= e.came || ends[1 - me].lacks_room));
     e.at_end = true
  :: else -> assert(number == e.expects && !e.at_end); e.expects++
  fi
}

/* The kernel's connection ends where the stream has (idempotent, as shutdown is). */
inline end_stream(e, kernel_out) {
  if
  :: e.shut && !e.told_end -> kernel_out!END; e.told_end = true
  :: else
  fi
}

/* The last record of this end: whether it gives something back depends on what it has. */
inline begin(e, link_out, unread) {
  if
  :: !e.tx_left ->
     e.tx_left = true;
     e.recalls = (!e.rx_left || nempty(unread));
     if
     :: e.recalls -> link_out!RECALL(0)
     :: else -> link_out!HAND_BACK(0)
     fi
  :: else
  fi
}

/* The peer has nothing more to say by the link: gives back what nobody has read. */
inline give_back(e, link_out, kernel_out, unread) {
  if
  :: e.recalls ->
     e.rx_fin = false;
     if
     :: !e.awaits_return -> end_stream(e, kernel_out)
     :: else
     fi;
     do
     :: nempty(unread) -> unread?number; link_out!RETURNED(number); e.given_back++
     :: empty(unread) -> break
     od;
     e.all = e.heard + e.given_back;
     link_out!RETURNED_ALL(0)
  :: else
  fi
}

proctype Process(byte me; chan link_in, link_out, kernel_in, kernel_out, unread, returned) {
  byte number;
  do
  /* The application writes: to the link, or to the kernel once the connection has left it and nothing waits before. */
  :: atomic { !ends[me].shut && ends[me].sent < SENDS && !ends[me].tx_left && nfull(link_out) ->
       link_out!DATA(ends[me].sent); ends[me].sent++ }
  :: atomic { !ends[me].shut && ends[me].sent < SENDS && ends[me].is_plain && !ends[me].resends && nfull(kernel_out) ->
       kernel_out!ends[me].sent; ends[me].sent++; ends[1 - me].heard++ }
  :: atomic { !ends[me].shut && ends[me].sent == SENDS && !ends[me].tx_left && nfull(link_out) ->
       ends[me].shut = true; link_out!FIN(0) }
  :: atomic { !ends[me].shut && ends[me].sent == SENDS && ends[me].is_plain && !ends[me].resends && nfull(kernel_out) ->
       ends[me].shut = true; end_stream(ends[me], kernel_out) }
  /* (On the way between the two shutdown only notes the end: it is told when the connection leaves.) */
  :: atomic { !ends[me].shut && ends[me].sent == SENDS && ends[me].tx_left && !ends[me].is_plain -> ends[me].shut = true }

  /* The application reads: what came by the link, what is left over of a peer that died, then what the kernel has. */
  :: atomic { !ends[me].is_plain && nempty(unread) -> unread?number; read(ends[me], number) }
  :: atomic { !ends[me].is_plain && empty(unread) && ends[me].rx_fin && !ends[me].at_end -> read(ends[me], END) }
  :: atomic { ends[me].is_plain && ends[me].reads_here > 0 ->
       read(ends[me], ends[me].expects); ends[me].reads_here-- }
  :: atomic { ends[me].is_plain && ends[me].reads_here == 0 && nempty(kernel_in) && !ends[me].at_end ->
       kernel_in?number; read(ends[me], number) }

  /* A call that only the kernel can serve. */
  :: atomic { !ends[me].tx_left && nfull(link_out) -> begin(ends[me], link_out, unread) }

  /* The link is polled: one record, whole, under its lock. */
  :: atomic { link_in?[DATA, number] && nfull(unread) ->
       link_in?DATA(number); assert(!ends[me].rx_left && !ends[me].rx_fin);
       unread!number; ends[me].came = number + 1 }
  :: atomic { link_in?[FIN, _] -> link_in?FIN(_); assert(!ends[me].rx_left); ends[me].rx_fin = true }
  :: atomic { link_in?[RECALL, _] && len(link_out) + len(unread) + 2 <= ROOM ->
       link_in?RECALL(_); assert(!ends[me].rx_left);
       ends[me].rx_left = true; ends[me].awaits_return = true;
       begin(ends[me], link_out, unread); give_back(ends[me], link_out, kernel_out, unread) }
  :: atomic { link_in?[HAND_BACK, _] && len(link_out) + len(unread) + 2 <= ROOM ->
       link_in?HAND_BACK(_); assert(!ends[me].rx_left);
       ends[me].rx_left = true;
       begin(ends[me], link_out, unread); give_back(ends[me], link_out, kernel_out, unread) }
  :: atomic { link_in?[RETURNED, number] && nfull(returned) ->
       link_in?RETURNED(number); assert(ends[me].awaits_return); returned!number }
  :: atomic { link_in?[RETURNED_ALL, _] && nfull(link_out) ->
       link_in?RETURNED_ALL(_); assert(ends[me].awaits_return && !ends[me].resends); ends[me].resends = true }
  :: atomic { link_in?[RESENT, _] -> link_in?RESENT(_); ends[me].resent = true; ends[me].given_back = 0 }

  /* What came back is sent again as the kernel has room; the stream's end behind it. */
  :: atomic { ends[me].resends && nempty(returned) && nfull(kernel_out) ->
       returned?number; kernel_out!number; ends[1 - me].heard++ }
  /* (Where it has no room the control thread goes on when it has; whoever gave it back need not wait for that.) */
  :: atomic { ends[me].resends && ends[me].awaits_return && nempty(returned) && nfull(link_out) ->
       ends[me].awaits_return = false; ends[me].lacks_room = true; link_out!RESENT(0) }
  :: atomic { ends[me].resends && empty(returned) && nfull(kernel_out) && nfull(link_out) ->
       ends[me].resends = false;
       if
       :: ends[me].awaits_return -> ends[me].awaits_return = false; link_out!RESENT(0)
       :: else
       fi;
       if
       :: ends[me].shut -> end_stream(ends[me], kernel_out)
       :: else
       fi }

  /* Off the link. */
  :: atomic { !ends[me].is_plain && LEFT(ends[me]) && nfull(kernel_out) ->
       ends[me].is_plain = true;
       assert(empty(unread));
       if
       :: !ends[me].resends -> end_stream(ends[me], kernel_out)
       :: else
       fi }

#ifdef DEATH
  :: atomic { !ends[0].dead && !ends[1].dead -> ends[me].dead = true;
       /* The kernel ends its side; its part of what it had in hand is gone. */
       if
       :: !ends[me].told_end && nfull(kernel_out) -> kernel_out!END
       :: ends[me].told_end
       fi; goto gone }
  /* The peer is dead, and all that it had put into the link was taken in. */
  :: atomic { ends[1 - me].dead && empty(link_in) && AWAITS_RESENT(ends[me]) ->
       /* What it did not send again is read here, if what it did send again is still untouched. */
       ends[me].resent = true;
       if
       :: ends[me].all > ends[me].heard ->
          number = ends[me].given_back - (ends[me].all - ends[me].heard);
          /* Those that came again are thrown away: nobody can have read them before the connection left. */
          do
          :: number > 0 -> kernel_in?_; number--
          :: number == 0 -> break
          od;
          ends[me].reads_here = ends[me].given_back
       :: else
       fi }
  :: atomic { ends[1 - me].dead && empty(link_in) && !ends[me].is_plain && ends[me].awaits_return ->
       ends[me].awaits_return = false; ends[me].resends = true }
  :: atomic { ends[1 - me].dead && empty(link_in) && !ends[me].rx_left && empty(unread) && !ends[me].at_end ->
       /* It died on the link: what came is read, and then the end. */
       read(ends[me], END) }
  :: ends[1 - me].dead && ends[me].at_end -> break
#endif
  :: ends[me].at_end && ends[me].shut && ends[1 - me].at_end -> break
  od;
#ifdef DEATH
  goto over;
gone:
  /* What is sent to a process that is dead goes nowhere. */
end_gone:
  do
  :: link_in?_(_)
  :: kernel_in?_
  od;
over:
#endif
  skip
}

init {
  atomic {
    run Process(0, link0, link1, kernel0, kernel1, unread0, returned0);
    run Process(1, link1, link0, kernel1, kernel0, unread1, returned1)
  }
}
