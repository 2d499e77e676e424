/* How what nodes tell of the cluster becomes the node table: whose word counts, what
 * survives a failover, and what a redirect teaches before the next refresh. */
#include "health_kit.h"

struct world {
    struct way_health *h;
    struct way_topology *t; /* a cluster with one replica each, published at 1 */
};
enum { A, B, C, A0, B0, C0 };

static int begin(void **state)
{
    struct world *w = way_zalloc(sizeof *w);
    struct way_health_options o = { .guard = true, .failing_share = 0.5 };
    o.layout = (struct way_layout){ .hash = 7, .node = 1, .shard = 1, .cluster = 1 };
    w->h = kit_open(&o);
    w->t = kit_cluster(1);
    assert_int_equal(kit_publish(w->h, w->t, 1), 1);
    *state = w;
    return 0;
}

static int end(void **state)
{
    struct world *w = *state;
    way_health_check(w->h);
    way_health_close(w->h);
    kit_topology_free(w->t);
    way_free(w);
    return 0;
}

static unsigned shard_of(struct world *w, unsigned node)
{
    return atomic_load(&way_health_node(w->h, node)->shard);
}

static unsigned slot_shard(struct world *w, unsigned slot)
{
    return atomic_load(&way_health_slots(w->h)[slot]);
}

static unsigned slot_master(struct world *w, unsigned slot)
{
    unsigned shard = slot_shard(w, slot);
    return shard == WAY_NONE ? WAY_NONE
                             : atomic_load(&way_health_shard(w->h, shard)->master);
}

static unsigned replicas(struct world *w, unsigned shard)
{
    return atomic_load(&way_health_shard(w->h, shard)->replicas);
}

static bool lists(struct world *w, unsigned shard, unsigned node)
{
    struct way_shard *s = way_health_shard(w->h, shard);
    for (unsigned i = 0; i < replicas(w, shard); i++)
        if (atomic_load(&s->replica[i]) == node)
            return true;
    return false;
}

static bool gone(struct world *w, unsigned node)
{
    return atomic_load(&way_health_node(w->h, node)->route) & WAY_ROUTE_GONE;
}

static uint32_t generation(struct world *w, unsigned node)
{
    return atomic_load(&way_health_node(w->h, node)->generation);
}

static uint64_t epoch(struct world *w)
{
    return atomic_load(way_health_epoch(w->h));
}

static struct way_view view(struct world *w, unsigned node)
{
    struct way_snapshot s;
    way_health_snapshot(w->h, node, 0, &s);
    return s.view;
}

static int adopt(struct world *w, double began, struct way_node_change *out, unsigned max)
{
    struct way_err err;
    return way_health_adopt(w->h, w->t, began, began, out, max, &err);
}

static int publish(struct world *w, double began)
{
    struct way_err err;
    return way_health_publish(w->h, w->t, began, &err);
}

/* The replica `to` (index in t) takes the place of its master `from`, at that epoch. */
static void fail_over(struct way_topology *t, unsigned from, unsigned to, uint64_t at)
{
    struct way_topo_node *old = &t->node[from], *new = &t->node[to];
    new->master = true;
    new->master_id[0] = 0;
    new->config_epoch = at;
    old->master = false;
    old->config_epoch = at;
    snprintf(old->master_id, sizeof old->master_id, "%s", new->id);
    for (unsigned s = 0; s < WAY_SLOTS; s++)
        if (t->owner[s] == from)
            t->owner[s] = (uint16_t)to;
}

/* ---- the first topology ---- */

static void slots_lead_to_shards_and_shards_to_nodes(void **state)
{
    struct world *w = *state;
    assert_int_equal(slot_master(w, 0), A);
    assert_int_equal(slot_master(w, 5461), B);
    assert_int_equal(slot_master(w, 16383), C);
    assert_true(lists(w, slot_shard(w, 0), A0));
    assert_int_equal(replicas(w, slot_shard(w, 0)), 1);
    assert_int_equal(shard_of(w, A0), slot_shard(w, 0));
    assert_true(way_health_coverage(w->h) == 1);
    assert_true(way_health_topology_at(w->h) == 1);
    assert_int_equal(way_health_nodes(w->h), 6);
}

static void the_same_again_changes_nothing(void **state)
{
    struct world *w = *state;
    struct way_node_change c[8];
    uint64_t before = epoch(w);
    assert_int_equal(adopt(w, 2, c, 8), 0);
    assert_int_equal(publish(w, 2), 0);
    assert_int_equal(epoch(w), before);
    assert_true(way_health_topology_at(w->h) == 2);
}

static void a_new_node_is_told_before_it_is_routed_to(void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    struct way_node_change c[16];
    w->t = kit_cluster(2);
    for (int again = 0; again < 2; again++) { /* not published: told again */
        assert_int_equal(adopt(w, 2, c, 16), 3);
        assert_true(c[0].what == WAY_CHANGE_ADDED && !c[0].gone);
        assert_int_equal(c[0].node, 6);
        assert_int_equal(c[0].role, WAY_ROLE_REPLICA);
        assert_int_equal(shard_of(w, 6), WAY_NONE);
        assert_false(lists(w, shard_of(w, A), 6));
        assert_int_equal(view(w, 6).verdict.state, WAY_STATE_HEALTHY);
    }
    assert_int_equal(publish(w, 2), 1);
    assert_true(lists(w, shard_of(w, A), 6));
    assert_int_equal(adopt(w, 3, c, 16), 0);
    kit_topology_free(old);
}

static void what_does_not_fit_is_told_the_next_time(void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    struct way_node_change c[4];
    w->t = kit_cluster(3);
    assert_int_equal(adopt(w, 2, c, 4),
                     3); /* room for another with two changes is gone */
    assert_int_equal(publish(w, 2), 1);
    assert_int_equal(adopt(w, 3, c, 4), 3);
    assert_int_equal(c[0].node, 9);
    kit_topology_free(old);
}

static void nodes_that_nobody_can_reach_are_left_out(void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    struct way_node_change c[32];
    w->t = kit_cluster(2);
    w->t->node[6].handshake = true;
    w->t->node[7].port = 0;
    w->t->node[8].host[0] = 0;
    w->t->node[A0].noaddr = true;
    assert_int_equal(adopt(w, 2, c, 32), 1);
    assert_true(c[0].gone && c[0].node == A0);
    assert_false(gone(w, A0));
    assert_int_equal(publish(w, 2), 1);
    assert_true(gone(w, A0));
    assert_int_equal(way_health_nodes(w->h), 6);
    kit_topology_free(old);
}

static void a_failed_node_stays_in_its_shard(void **state)
{
    struct world *w = *state;
    w->t->node[A].fail = w->t->node[B0].fail = true;
    w->t->node[C0].link_up = false;
    assert_int_equal(kit_publish(w->h, w->t, 2), 0);
    assert_int_equal(slot_master(w, 0), A);
    assert_true(lists(w, shard_of(w, B), B0));
    assert_int_equal(view(w, A).verdict.state, WAY_STATE_HEALTHY);
}

/* ---- failover ---- */

static void a_promoted_replica_takes_over_shard_and_memory(void **state)
{
    struct world *w = *state;
    struct way_node_change c[8];
    struct way_snapshot s;
    struct way_outcome out;
    struct way_proposal p = { .hard = false };
    unsigned shard = shard_of(w, A);
    way_health_snapshot(w->h, A, 1, &s);
    p.memory = s.view.memory;
    p.memory.shard[0] = 42;
    assert_int_equal(way_health_commit(w->h, &s, &p, false, &out), WAY_COMMIT_DONE);

    fail_over(w->t, A, A0, 4);
    uint64_t before = epoch(w);
    assert_int_equal(adopt(w, 2, c, 8), 2);
    assert_true(c[0].node == A && c[0].what == WAY_CHANGE_ROLE);
    assert_int_equal(c[0].role, WAY_ROLE_REPLICA);
    assert_true(c[1].node == A0 && c[1].role == WAY_ROLE_MASTER);
    assert_int_equal(publish(w, 2), 1);
    assert_true(epoch(w) > before);
    assert_int_equal(slot_shard(w, 0), shard);
    assert_int_equal(slot_master(w, 0), A0);
    assert_true(lists(w, shard, A));
    assert_true(view(w, A0).memory.shard[0] == 42);
    assert_int_equal(generation(w, A), 1);
}

static void a_dead_former_master_belongs_to_its_shard_but_is_not_routed_to(void **state)
{
    struct world *w = *state;
    unsigned shard = shard_of(w, A);
    fail_over(w->t, A, A0, 4);
    w->t->node[A].master = true; /* as it is listed until it is back */
    w->t->node[A].fail = true;
    w->t->node[A].config_epoch = 1;
    kit_publish(w->h, w->t, 2);
    assert_int_equal(slot_master(w, 0), A0);
    assert_int_equal(shard_of(w, A), shard);
    assert_int_equal(replicas(w, shard), 0);
    assert_int_equal(view(w, A0).of_shard.nodes, 2);
    assert_false(gone(w, A));
    w->t->node[A].master = false; /* and is */
    w->t->node[A].fail = false;
    w->t->node[A].config_epoch = 4;
    strcpy(w->t->node[A].master_id, "a0");
    kit_publish(w->h, w->t, 3);
    assert_true(lists(w, shard, A));
}

static void an_answer_older_than_the_failover_changes_nothing(void **state)
{
    struct world *w = *state;
    struct way_node_change c[8];
    struct way_topology *old = kit_cluster(1), *new = w->t;
    fail_over(new, A, A0, 4);
    kit_publish(w->h, new, 2);
    w->t = old;
    uint64_t before = epoch(w);
    assert_int_equal(adopt(w, 3, c, 8), 0); /* begun later, of a node that lags */
    assert_int_equal(publish(w, 3), 0);
    assert_int_equal(slot_master(w, 0), A0);
    assert_int_equal(view(w, A0).role, WAY_ROLE_MASTER);
    assert_int_equal(epoch(w), before);
    w->t = new;
    kit_topology_free(old);
}

static void a_late_answer_with_higher_epochs_still_counts(void **state)
{
    struct world *w = *state;
    kit_publish(w->h, w->t, 5);
    fail_over(w->t, A, A0, 4);
    kit_publish(w->h, w->t, 3); /* begun before the one that is in the table */
    assert_int_equal(slot_master(w, 0), A0);
}

static void an_old_answer_gives_the_slots_it_wins_by_a_higher_epoch(void **state)
{
    struct world *w = *state;
    struct way_topology *mixed = kit_cluster(1);
    fail_over(w->t, A, A0, 4);
    kit_publish(w->h, w->t, 2);
    mixed->node[B].config_epoch = 5; /* knows that b took a slot, not that a failed */
    mixed->owner[16383] = B;
    kit_publish(w->h, mixed, 3);
    assert_int_equal(slot_master(w, 16383), B);
    assert_int_equal(slot_master(w, 0), A0);
    kit_topology_free(mixed);
}

static void without_epochs_the_refresh_that_began_later_wins(void **state)
{
    struct world *w = *state;
    struct way_topology *other = kit_cluster(1);
    w->t->has_epochs = other->has_epochs = false;
    other->owner[100] = B;
    kit_publish(w->h, other, 3);
    assert_int_equal(slot_master(w, 100), B);
    kit_publish(w->h, w->t, 2);
    assert_int_equal(slot_master(w, 100), B);
    kit_publish(w->h, w->t, 4);
    assert_int_equal(slot_master(w, 100), A);
    kit_topology_free(other);
}

/* ---- slots that move ---- */

static void a_slot_follows_the_higher_epoch(void **state)
{
    struct world *w = *state;
    w->t->owner[7] = B;
    w->t->node[B].config_epoch = 4;
    assert_int_equal(kit_publish(w->h, w->t, 2), 1);
    assert_int_equal(slot_master(w, 7), B);
    assert_int_equal(slot_master(w, 8), A);
}

static void a_slot_nobody_owns_is_unowned_if_its_owner_says_so(void **state)
{
    struct world *w = *state;
    w->t->owner[7] = WAY_SLOT_UNOWNED;
    assert_int_equal(kit_publish(w->h, w->t, 2), 1);
    assert_int_equal(slot_shard(w, 7), WAY_NONE);
    assert_true(way_health_coverage(w->h) < 1);
    w->t->owner[7] = C;
    kit_publish(w->h, w->t, 3);
    assert_int_equal(slot_master(w, 7), C);
}

/* What a bystander says who has heard that the old master is a replica, and not yet who has
 * its slots. */
static void a_demotion_heard_before_the_promotion_leaves_no_slot_unowned(void **state)
{
    struct world *w = *state;
    unsigned shard = slot_shard(w, 0);
    struct way_topo_node *old = &w->t->node[A];
    old->master = false;
    old->config_epoch = 4;
    strcpy(old->master_id, "a0");
    kit_slots(w->t, WAY_SLOT_UNOWNED, 0, 5460);
    kit_publish(w->h, w->t, 2); /* a0 is its replica yet: each is the other's */
    way_health_check(w->h);
    assert_true(way_health_coverage(w->h) == 1);
    assert_int_equal(slot_shard(w, 0), shard);
    assert_int_equal(slot_master(w, 0), A); /* it says MOVED */
    assert_int_equal(slot_master(w, 5461), B);
    w->t->node[A0].master = true; /* a master, and without slots yet */
    w->t->node[A0].master_id[0] = 0;
    w->t->node[A0].config_epoch = 4;
    kit_publish(w->h, w->t, 3);
    way_health_check(w->h);
    assert_true(way_health_coverage(w->h) == 1);
    assert_int_equal(slot_shard(w, 0), shard);
    assert_int_equal(slot_master(w, 0), A0);
    assert_true(lists(w, shard, A));
    kit_slots(w->t, A0, 0, 5460);
    kit_publish(w->h, w->t, 4);
    assert_int_equal(slot_master(w, 0), A0);
    assert_int_equal(slot_shard(w, 0), shard);
}

static void a_node_that_was_reset_empties_nothing(void **state)
{
    struct world *w = *state;
    struct way_topology *alone = kit_topology(1);
    kit_node(alone, "a", 7000, NULL, 0);
    kit_publish(w->h, alone, 2);
    assert_true(way_health_coverage(w->h) == 1);
    assert_false(gone(w, B));
    kit_topology_free(alone);
}

static void a_master_without_slots_keeps_a_shard_of_its_own(void **state)
{
    struct world *w = *state;
    unsigned shard = shard_of(w, A);
    kit_slots(w->t, B, 0, 5460);
    w->t->node[B].config_epoch = 9;
    kit_publish(w->h, w->t, 2);
    assert_int_equal(slot_master(w, 0), B);
    assert_int_equal(shard_of(w, A), shard);
    assert_int_equal(atomic_load(&way_health_shard(w->h, shard)->master), A);
    assert_true(lists(w, shard, A0));
}

static void a_replica_that_migrates_is_listed_where_it_went(void **state)
{
    struct world *w = *state;
    strcpy(w->t->node[C0].master_id, "a");
    w->t->node[C0].config_epoch = 1; /* its new master's, lower than before */
    kit_publish(w->h, w->t, 2);
    assert_true(lists(w, shard_of(w, A), C0));
    assert_int_equal(replicas(w, shard_of(w, C)), 0);
}

static void a_master_nobody_can_reach_leaves_its_replicas_to_read_from(void **state)
{
    struct world *w = *state;
    unsigned shard = shard_of(w, A);
    w->t->node[A].noaddr = true;
    w->t->node[A].fail = true;
    kit_publish(w->h, w->t, 2);
    assert_true(gone(w, A));
    assert_int_equal(slot_shard(w, 0), shard);
    assert_int_equal(slot_master(w, 0), WAY_NONE);
    assert_true(lists(w, shard, A0));
    fail_over(w->t, A, A0, 4);
    kit_publish(w->h, w->t, 3);
    assert_int_equal(slot_shard(w, 0), shard);
    assert_int_equal(slot_master(w, 0), A0);
}

static void a_replaced_master_is_known_by_its_replicas(void **state)
{
    struct world *w = *state;
    unsigned shard = shard_of(w, A);
    strcpy(w->t->node[A].id, "d");
    w->t->node[A].port = 7010;
    strcpy(w->t->node[A0].master_id, "d");
    kit_publish(w->h, w->t, 2);
    unsigned d = kit_find(w->h, "d");
    assert_int_equal(slot_shard(w, 0), shard);
    assert_int_equal(slot_master(w, 0), d);
    assert_true(gone(w, A) && lists(w, shard, A0));
}

/* ---- nodes that leave, come back, move ---- */

static void who_left_is_gone_and_its_connections_are_old(void **state)
{
    struct world *w = *state;
    struct way_node_change c[8];
    w->t->count--; /* c0 */
    assert_int_equal(adopt(w, 2, c, 8), 1);
    assert_true(c[0].gone && c[0].node == C0);
    assert_false(gone(w, C0));
    assert_int_equal(publish(w, 2), 1);
    assert_true(gone(w, C0));
    assert_int_equal(generation(w, C0), 2);
    assert_int_equal(shard_of(w, C0), WAY_NONE);
    assert_int_equal(replicas(w, shard_of(w, C)), 0);
    assert_int_equal(view(w, A).of_cluster.nodes, 5);
    assert_int_equal(way_health_find(w->h, "127.0.0.1", 7005), WAY_NONE);
    kit_soft(w->h, C0, 3, WAY_STATE_SUSPECT, 0); /* a late mark brings nobody back */
    assert_true(gone(w, C0));
}

static void who_comes_back_begins_healthy_in_its_record(void **state)
{
    struct world *w = *state;
    struct way_node_change c[8];
    kit_soft(w->h, C0, 2, WAY_STATE_SUSPECT, 0);
    w->t->count--;
    kit_publish(w->h, w->t, 2);
    w->t->count++;
    assert_int_equal(adopt(w, 3, c, 8), 1);
    assert_true(c[0].node == C0 && c[0].what == WAY_CHANGE_ADDED);
    assert_int_equal(publish(w, 3), 1);
    assert_int_equal(kit_state(w->h, C0), WAY_STATE_HEALTHY);
    assert_int_equal(generation(w, C0), 3);
    assert_false(gone(w, C0));
    assert_true(lists(w, shard_of(w, C), C0));
}

static void a_record_is_given_to_another_only_after_a_while(void **state)
{
    struct world *w = *state;
    strcpy(w->t->node[C0].id, "c1");
    w->t->node[C0].port = 7011;
    kit_publish(w->h, w->t, 100);
    assert_int_equal(kit_find(w->h, "c1"), 6);
    strcpy(w->t->node[C0].id, "c2");
    w->t->node[C0].port = 7012;
    kit_publish(w->h, w->t, 159);
    assert_int_equal(kit_find(w->h, "c2"), 7);
    strcpy(w->t->node[C0].id, "c3");
    w->t->node[C0].port = 7013;
    kit_publish(w->h, w->t, 161);
    assert_int_equal(kit_find(w->h, "c3"), C0);
    assert_int_equal(generation(w, C0), 3);
}

static void a_node_at_another_address_keeps_its_record(void **state)
{
    struct world *w = *state;
    struct way_node_change c[8];
    kit_hard(w->h, A, 1, WAY_STATE_FAILING, 0);
    w->t->node[A].port = 7100;
    assert_int_equal(adopt(w, 2, c, 8), 1);
    assert_true(c[0].node == A && c[0].what == WAY_CHANGE_ADDRESS);
    assert_int_equal(generation(w, A), 2);
    assert_int_equal(kit_state(w->h, A), WAY_STATE_FAILING);
    assert_string_equal(view(w, A).address, "127.0.0.1:7100");
    assert_int_equal(way_health_find(w->h, "127.0.0.1", 7100), A);
    assert_int_equal(way_health_find(w->h, "127.0.0.1", 7000), WAY_NONE);
}

static void another_cluster_under_the_same_addresses_replaces_all(void **state)
{
    struct world *w = *state;
    fail_over(w->t, A, A0, 40);
    kit_publish(w->h, w->t, 2);
    struct way_topology *fresh = kit_topology(2);
    kit_slots(fresh, kit_node(fresh, "x", 7000, NULL, 1), 0, 8191);
    kit_slots(fresh, kit_node(fresh, "y", 7001, NULL, 2), 8192, WAY_SLOTS - 1);
    assert_int_equal(kit_publish(w->h, fresh, 3), 1);
    assert_int_equal(slot_master(w, 0), kit_find(w->h, "x"));
    assert_int_equal(slot_master(w, 16383), kit_find(w->h, "y"));
    assert_true(gone(w, A) && gone(w, A0));
    assert_true(way_health_coverage(w->h) == 1);
    kit_topology_free(fresh);
}

/* ---- redirects ---- */

static void nodes_are_found_by_address_and_by_name(void **state)
{
    struct world *w = *state;
    strcpy(w->t->node[B].hostname, "b.example");
    kit_publish(w->h, w->t, 2);
    assert_int_equal(way_health_find(w->h, "127.0.0.1", 7001), B);
    assert_int_equal(way_health_find(w->h, "b.example", 7001), B);
    assert_int_equal(way_health_find(w->h, "b.example", 7002), WAY_NONE);
    assert_int_equal(way_health_find(w->h, "", 7001), WAY_NONE);
    assert_string_equal(view(w, B).hostname, "b.example");
}

static void a_moved_slot_is_routed_anew_at_once(void **state)
{
    struct world *w = *state;
    uint64_t before = epoch(w);
    way_health_moved(w->h, 7, B, 2);
    assert_int_equal(slot_master(w, 7), B);
    assert_int_equal(slot_master(w, 8), A);
    assert_int_equal(epoch(w), before + 1);
    way_health_moved(w->h, 7, B, 2);
    assert_int_equal(epoch(w), before + 1);
}

static void a_refresh_begun_before_the_redirect_can_t_take_it_back(void **state)
{
    struct world *w = *state;
    way_health_moved(w->h, 7, B, 3);
    kit_publish(w->h, w->t, 2);
    assert_int_equal(slot_master(w, 7), B);
    w->t->owner[7] = B; /* the one that follows knows of it */
    w->t->node[B].config_epoch = 4;
    kit_publish(w->h, w->t, 4);
    assert_int_equal(slot_master(w, 7), B);
}

static void a_wrong_redirect_is_corrected_by_the_refresh_that_follows(void **state)
{
    struct world *w = *state;
    way_health_moved(w->h, 7, B, 3);
    kit_publish(w->h, w->t, 4);
    assert_int_equal(slot_master(w, 7), A);
}

static void a_redirect_to_a_replica_promotes_it(void **state)
{
    struct world *w = *state;
    unsigned shard = shard_of(w, A);
    way_health_moved(w->h, 7, A0, 3);
    assert_int_equal(slot_shard(w, 7), shard);
    assert_int_equal(slot_master(w, 7), A0);
    assert_int_equal(view(w, A0).role, WAY_ROLE_MASTER);
    assert_int_equal(view(w, A).role, WAY_ROLE_REPLICA);
    assert_true(lists(w, shard, A) && replicas(w, shard) == 1);
    way_health_check(w->h);
    kit_publish(w->h, w->t, 2); /* begun before: knows nothing of it */
    assert_int_equal(slot_master(w, 8), A0);
    way_health_moved(w->h, 9, A, 4); /* and back */
    assert_int_equal(slot_master(w, 8), A);
    assert_true(lists(w, shard, A0) && replicas(w, shard) == 1);
}

static void a_redirect_to_a_node_of_no_shard_gives_it_one(void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    struct way_node_change c[8];
    w->t = kit_topology(7);
    memcpy(w->t->node, old->node, 6 * sizeof *old->node);
    memcpy(w->t->owner, old->owner, sizeof old->owner);
    w->t->count = 6;
    kit_node(w->t, "d", 7010, NULL, 9);
    assert_int_equal(adopt(w, 2, c, 8), 1);
    way_health_moved(w->h, 7, 6, 2);
    assert_int_equal(slot_master(w, 7), 6);
    way_health_check(w->h);
    w->t->owner[7] = 6;
    kit_publish(w->h, w->t, 3);
    assert_int_equal(slot_master(w, 7), 6);
    kit_topology_free(old);
}

static void a_redirect_to_who_left_is_ignored(void **state)
{
    struct world *w = *state;
    w->t->count--;
    kit_publish(w->h, w->t, 2);
    way_health_moved(w->h, 7, C0, 3);
    way_health_moved(w->h, 7, 900, 3);
    way_health_moved(w->h, WAY_SLOTS, A, 3);
    assert_int_equal(slot_master(w, 7), A);
}

/* ---- bounds ---- */

static void more_replicas_than_a_shard_lists_are_members_that_are_not_routed_to(
    void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    w->t = kit_cluster(40);
    kit_publish(w->h, w->t, 2);
    assert_int_equal(replicas(w, shard_of(w, A)), WAY_SHARD_REPLICAS);
    assert_int_equal(view(w, A).of_shard.nodes, 41);
    kit_topology_free(old);
}

static void more_nodes_than_the_table_holds_are_left_out_with_a_word(void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    static struct way_node_change c[2 * WAY_NODES_MAX];
    struct way_err err;
    w->t = kit_topology(1100);
    for (unsigned i = 0; i < 1100; i++) {
        char id[16];
        snprintf(id, sizeof id, "n%u", i);
        kit_node(w->t, id, 10000 + i, NULL, i + 1);
        w->t->owner[i] = (uint16_t)i;
    }
    int n = way_health_adopt(w->h, w->t, 2, 2, c, way_count(c), &err);
    assert_int_equal(n, WAY_NODES_MAX - 6 + 6); /* added, and the six departures */
    assert_non_null(strstr(err.text, "1024"));
    double from = way_clock();
    assert_int_equal(publish(w, 2), 1);
    print_message("1018 nodes published in %.0f us\n", (way_clock() - from) * 1e6);
    way_health_check(w->h);
    assert_int_equal(slot_master(w, 0), 6);
    assert_int_equal(slot_shard(w, 1099), WAY_NONE);
    assert_true(gone(w, A));
    kit_publish(w->h, w->t, 62.5); /* the departed make room for six more */
    assert_int_equal(view(w, 6).of_cluster.nodes, WAY_NODES_MAX);
    kit_topology_free(old);
}

static void the_same_id_twice_counts_once(void **state)
{
    struct world *w = *state;
    strcpy(w->t->node[C0].id, "b0");
    kit_publish(w->h, w->t, 2);
    assert_string_equal(view(w, B0).address, "127.0.0.1:7004");
    assert_true(gone(w, C0));
}

static void a_zone_goes_by_address_name_or_host(void **state)
{
    struct world *w = *state;
    struct way_topology *old = w->t;
    way_health_zone(w->h, "127.0.0.1:7000", "east");
    assert_string_equal(view(w, A).zone, "east");
    way_health_zone(w->h, "far.example:7008", "north");
    way_health_zone(w->h, "127.0.0.1", "west");
    assert_string_equal(view(w, B).zone, "west");
    w->t = kit_cluster(2);
    strcpy(w->t->node[8].host, "10.0.0.1");
    strcpy(w->t->node[8].hostname, "far.example");
    kit_publish(w->h, w->t, 2);
    assert_string_equal(view(w, A).zone, "east");
    assert_string_equal(view(w, 7).zone, "west");
    assert_string_equal(view(w, 8).zone, "north");
    kit_topology_free(old);
}

/* ---- whatever is told ---- */

static uint32_t dice(struct way_random *r, uint32_t sides)
{
    return (uint32_t)(way_random_next(r) >> 33) % sides;
}

/* A topology of random nodes out of a small world, with all that can be odd about one. */
static struct way_topology *random_topology(struct way_random *r)
{
    struct way_topology *t = kit_topology(12);
    unsigned count = dice(r, 12);
    t->has_epochs = dice(r, 4) != 0;
    for (unsigned i = 0; i < count; i++) {
        char id[8], master[8];
        snprintf(id, sizeof id, "n%u", dice(r, 10));
        snprintf(master, sizeof master, "n%u", dice(r, 10));
        kit_node(t, id, 7000 + dice(r, 12), dice(r, 2) ? master : NULL, dice(r, 6));
        t->node[i].noaddr = dice(r, 20) == 0;
        t->node[i].fail = dice(r, 5) == 0;
    }
    for (unsigned s = 0; s < WAY_SLOTS && count;) {
        unsigned until = s + dice(r, WAY_SLOTS / 3), owner = dice(r, count + 1);
        for (; s <= until && s < WAY_SLOTS; s++)
            t->owner[s] = owner < count ? (uint16_t)owner : WAY_SLOT_UNOWNED;
    }
    return t;
}

static void the_table_is_in_order_whatever_it_is_told(void **state)
{
    struct world *w = *state;
    struct way_random r;
    uint64_t seed = getenv("SEED") ? strtoull(getenv("SEED"), NULL, 10) : 20250917;
    way_random_seed(&r, seed);
    print_message("seed %llu\n", (unsigned long long)seed);
    for (unsigned i = 0; i < 400; i++) {
        double now = 10 * i + dice(&r, 30);
        struct way_topology *t = random_topology(&r);
        static struct way_node_change c[64];
        struct way_err err;
        if (dice(&r, 8))
            assert_true(way_health_adopt(w->h, t, now, now, c, 2 + dice(&r, 60), &err) >=
                        0);
        way_health_check(w->h);
        assert_true(way_health_publish(w->h, t, now, &err) >= 0);
        way_health_check(w->h);
        for (unsigned k = 0; k < 3; k++)
            way_health_moved(w->h, dice(&r, WAY_SLOTS), dice(&r, 12), now + k);
        way_health_check(w->h);
        kit_topology_free(t);
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, begin, end)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(slots_lead_to_shards_and_shards_to_nodes),
        T(the_same_again_changes_nothing),
        T(a_new_node_is_told_before_it_is_routed_to),
        T(what_does_not_fit_is_told_the_next_time),
        T(nodes_that_nobody_can_reach_are_left_out),
        T(a_failed_node_stays_in_its_shard),
        T(a_promoted_replica_takes_over_shard_and_memory),
        T(a_dead_former_master_belongs_to_its_shard_but_is_not_routed_to),
        T(an_answer_older_than_the_failover_changes_nothing),
        T(a_late_answer_with_higher_epochs_still_counts),
        T(an_old_answer_gives_the_slots_it_wins_by_a_higher_epoch),
        T(without_epochs_the_refresh_that_began_later_wins),
        T(a_slot_follows_the_higher_epoch),
        T(a_slot_nobody_owns_is_unowned_if_its_owner_says_so),
        T(a_demotion_heard_before_the_promotion_leaves_no_slot_unowned),
        T(a_node_that_was_reset_empties_nothing),
        T(a_master_without_slots_keeps_a_shard_of_its_own),
        T(a_replica_that_migrates_is_listed_where_it_went),
        T(a_master_nobody_can_reach_leaves_its_replicas_to_read_from),
        T(a_replaced_master_is_known_by_its_replicas),
        T(who_left_is_gone_and_its_connections_are_old),
        T(who_comes_back_begins_healthy_in_its_record),
        T(a_record_is_given_to_another_only_after_a_while),
        T(a_node_at_another_address_keeps_its_record),
        T(another_cluster_under_the_same_addresses_replaces_all),
        T(nodes_are_found_by_address_and_by_name),
        T(a_moved_slot_is_routed_anew_at_once),
        T(a_refresh_begun_before_the_redirect_can_t_take_it_back),
        T(a_wrong_redirect_is_corrected_by_the_refresh_that_follows),
        T(a_redirect_to_a_replica_promotes_it),
        T(a_redirect_to_a_node_of_no_shard_gives_it_one),
        T(a_redirect_to_who_left_is_ignored),
        T(more_replicas_than_a_shard_lists_are_members_that_are_not_routed_to),
        T(more_nodes_than_the_table_holds_are_left_out_with_a_word),
        T(the_same_id_twice_counts_once),
        T(a_zone_goes_by_address_name_or_host),
        T(the_table_is_in_order_whatever_it_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
