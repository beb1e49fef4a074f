// Items that a user does not find: ids ascending in each user's list, as ops/_filters.py makes them. Offsets are -1
// everywhere where they break their rules; the number of items stands for one that is not there. Null: no lists.
#pragma once
#include "device.cuh"

struct ItemLists {
  const long long* offsets;  // [users + 1]
  const long long* items;
};

DEVICE_INLINE bool is_listed(const ItemLists& lists, long long user, long long item) {
  if (!lists.offsets) return false;
  long long low = lists.offsets[user], high = lists.offsets[user + 1];
  const long long end = high;
  while (low < high) {
    const long long middle = low + (high - low) / 2;
    if (lists.items[middle] < item)
      low = middle + 1;
    else
      high = middle;
  }
  return low < end && lists.items[low] == item;
}

// Offsets that break their rules, or an item that is not there.
DEVICE_INLINE bool is_wrong_list(const ItemLists& lists, long long user, long long num_items) {
  if (!lists.offsets) return false;
  const long long end = lists.offsets[user + 1];
  return end < 0 || (end > lists.offsets[user] && lists.items[end - 1] >= num_items);
}
