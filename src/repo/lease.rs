//! `lease/<what>/<fencing>.json`: who is at work, until when. Nothing is updated in place: taking, renewing and releasing
//! each write the next number.
